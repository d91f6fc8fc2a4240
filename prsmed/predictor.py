"""Asking: `Predictor.load(model).open(image).ask(question) -> Answer`, for pictures, slices and whole volumes."""

from __future__ import annotations

from pathlib import Path

from prsmed.data.preprocessing import Preprocessing
from prsmed.data.readers import read_image
from prsmed.errors import RequestError
from prsmed.loaded import LoadedModel
from prsmed.models.checkpoints import model_folder, read_info
from prsmed.models.lora import merge_lora
from prsmed.models.medisee import MODES, MediSee
from prsmed.models.presets import load_network
from prsmed.models.prs_med import PRSMed
from prsmed.sessions import Session, StatedModality, VolumeSession
from prsmed.types import MODALITIES, MODALITY_OF_DICOM, SliceRef, SourceImage
from prsmed.volumes import VolumeOptions

SHIPPED = {"prs_med": "tiny", "medisee": "medisee"}
"""The model that comes with the project, by task."""


def shipped_model(task: str | None) -> str:
    """The shipped model of a task, PRS-Med's where none is named; RequestError for an unknown task."""
    name = SHIPPED.get(task or "prs_med")
    if name is None:
        raise RequestError(f"task {task!r}: unknown; give one of {', '.join(SHIPPED)}")
    return name


class Predictor(LoadedModel):
    """A loaded model that answers questions about images."""

    @classmethod
    def load(cls, model: str | Path = "tiny", device: str = "cpu", *, mode: str = "free") -> Predictor:
        """Load a shipped model by name, or the folder that training wrote.

        Args:
            mode: how MediSee is asked, see `prsmed.models.medisee.MODES`; nothing to PRS-Med.

        Raises:
            CheckpointError: missing, damaged or foreign files.
            RequestError: an unknown mode.
        """
        if mode not in MODES:
            raise RequestError(f"mode {mode!r}: unknown; give one of {', '.join(MODES)}")
        folder = model_folder(model)
        info = read_info(folder)
        network, text = load_network(folder)
        assert isinstance(network, (PRSMed, MediSee))
        if isinstance(network, MediSee):
            network.mode = mode
        merge_lora(network.language)
        return cls(network, text, Preprocessing(info["preprocessing"]), info, device)

    def require_task(self, task: str | None) -> None:
        """Raise RequestError where a task is named and this model was trained for another one."""
        if task is not None and task != self.info["task"]:
            raise RequestError(
                f"model {self.info['name']!r} was trained for {self.info['task']}, not for {task}; leave --task away or"
                " give another --model"
            )

    def open(
        self,
        image: str | Path,
        *,
        modality: str | None = None,
        position: SliceRef | None = None,
        volume: VolumeOptions | None = None,
        series_uid: str | None = None,
        frame: int | None = None,
    ) -> Session | VolumeSession:
        """Read an image once; then ask as often as you like.

        Args:
            image: a picture, a volume, a DICOM file, or a folder that holds one DICOM series.
            modality: one of `MODALITIES`; needed where the file does not state it.
            position: the one slice to look at; without it the whole volume is asked.
            volume: how a whole volume is asked.
            series_uid: which series, where a DICOM folder holds several.
            frame: which frame of a DICOM video, counted from 1.

        Raises:
            DataError: the file cannot be read.
            RequestError: the modality is unknown or missing.
        """
        if modality is not None and modality not in MODALITIES:
            raise RequestError(f"modality {modality!r}: unknown; give one of {', '.join(MODALITIES)}")
        source = read_image(Path(image), series_uid=series_uid, frame=frame)
        said = stated_modality(source, modality)
        prepared = self.preprocessing.prepare(source, modality=said.name)
        if source.is_volume and position is None:
            return VolumeSession(self, prepared, said, volume or VolumeOptions())
        return Session(self, prepared, said, position if source.is_volume else None)


def stated_modality(source: SourceImage, option: str | None) -> StatedModality:
    """The modality of an image: the caller's word, else the file's; never a guess.

    Raises:
        RequestError: neither says it, or the file says one that no model here knows (PET, for example).
    """
    code = source.dicom_modality
    from_file = MODALITY_OF_DICOM.get(code) if code else None
    if option is not None:
        warning = f"the file says DICOM modality {code}; it was treated as {option}, as the caller said"
        return StatedModality(option, "stated by the caller", (warning,) if code and from_file != option else ())
    if from_file is not None:
        return StatedModality(from_file, f"stated by the file (DICOM modality {code})")
    choices = ", ".join(MODALITIES)
    if code:
        raise RequestError(
            f"{source.path}: DICOM modality {code} is none of {choices}; ask another series of the study, or give the"
            " modality that it should be treated as"
        )
    raise RequestError(f"{source.path}: the file does not say its modality; give one of {choices}, it is never guessed")
