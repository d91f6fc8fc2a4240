"""What MONAI Label loads: the app with its question model, its training and its datastore."""

from __future__ import annotations

import logging
import secrets
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from bundle.monailabel.asked import AskRequest, ask_options, ask_request, train_request
from bundle.monailabel.dicomweb import DicomwebStudies
from bundle.monailabel.finetune import Labelled, training_overrides, write_training_set
from bundle.monailabel.served import RUNS, Served, shown_params
from bundle.monailabel.studies import StudiesFolder, study_file
from bundle.trackers import default_tracking_uri
from prsmed.data.writers.nifti import write_mask_like, write_nifti
from prsmed.data.writers.nrrd import write_label_nrrd
from prsmed.errors import DataError, PrsmedError, RequestError
from prsmed.models.checkpoints import read_info
from prsmed.sessions import Session, VolumeSession
from prsmed.types import NOT_A_MEDICAL_DEVICE, Answer
from prsmed.volumes import VolumeAnswer

logger = logging.getLogger(__name__)

# Stock messages name images, and those names may name patients.
for noisy in ("monailabel", "pydicom", "dicomweb_client", "highdicom", "timeloop", "task_train", "task_batch_infer"):
    logging.getLogger(noisy).setLevel(logging.CRITICAL)

_CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_REMEMBERED = 1000


class AskTask(InferTask):
    """Answers a question about an image with a label map and the answer's record."""

    def __init__(self, served: Served):
        super().__init__(
            type=InferType.SEGMENTATION,
            labels={"answer region": 1},
            dimension=3,
            description=f"Where is it? Write a question under Options. {NOT_A_MEDICAL_DEVICE}",
            config=ask_options(),
        )
        self.served = served

    def is_valid(self) -> bool:
        return True

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """MONAI Label's form of `answer`, for its batches; the options are checked as those of a client are."""
        options = {key: request[key] for key in (*ask_options(), "result_extension") if key in request}
        return self.answer(Path(request["image"]), ask_request(options))

    def answer(self, image: Path, asked: AskRequest) -> tuple[str, dict[str, Any]]:
        """A new temporary file with the label map on the image's own grid, and what is told about it.

        Raises:
            DataError: the image cannot be read.
            RequestError: it cannot be asked like that.
        """
        session, answer = self.served.ask(image, asked)
        folder = Path(tempfile.mkdtemp(prefix="prsmed-label-"))
        try:
            path = folder / f"label{asked.extension}"
            write_label(path, session, answer, asked)
        except BaseException:
            shutil.rmtree(folder)
            raise
        return str(path), {**shown_params(answer), "axis": asked.axis}


def write_label(path: Path, session: Session | VolumeSession, answer: Answer, asked: AskRequest) -> None:
    """The answer's mask on the grid of its image, all 0 where nothing is visible.

    Raises:
        RequestError: a picture is asked for as NIfTI.
    """
    source = session.source
    if isinstance(answer, VolumeAnswer):
        mask = answer.mask_ijk
    else:
        assert isinstance(session, Session)
        mask = session.geometry.mask_to_source(answer.objects[0].mask)
    if asked.extension == ".nrrd":
        write_label_nrrd(path, mask.astype(np.dtype(asked.dtype)), source, compress=asked.compress)
    elif not source.is_volume:
        raise RequestError("result_extension: a picture's label map is .nrrd; ask for that")
    elif asked.dtype == "uint8":
        write_mask_like(path, mask, source)
    else:
        assert source.affine_ijk_to_ras is not None
        write_nifti(path, mask.astype(np.uint16), source.affine_ijk_to_ras)


class FineTuneTask(TrainTask):
    """Goes on from the served weights with the labels that people saved; runs in a process of its own."""

    def __init__(self, served: Served, studies: Path):
        super().__init__(
            "Goes on from the served model with the corrected labels. The result answers only after it was accepted."
        )
        self.served = served
        self.studies = studies

    def config(self) -> dict[str, Any]:
        return {"max_epochs": 4, "val_split": 0.25}

    def stats(self) -> dict[str, Any]:
        return {"candidates": self.served.candidates()}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        asked = train_request({key: request[key] for key in self.config() if key in request})
        name = f"{datetime.now():%Y%m%d-%H%M%S}-corrected-{secrets.token_hex(2)}"
        runs, dataset = self.served.home / RUNS, self.served.home / "datasets" / name
        predictor = self.served.predictor
        counts = write_training_set(
            dataset,
            labelled_images(datastore),
            studies=self.studies,
            val_split=asked.val_split,
            name_target=predictor.name_target,
        )
        logger.info("training %s from %s", name, counts)
        monai.bundle.run(
            run_id="training",
            config_file=[str(_CONFIGS / "train.json"), str(_CONFIGS / "finetune.json")],
            **training_overrides(self.served.folder(), dataset=dataset, runs=runs, name=name, asked=asked),
            tracking_uri=default_tracking_uri(self.served.home),
        )
        best = read_info(runs / name / "best")
        return {"run": name, **counts, "score": best.get("score"), "accept": f"POST /prsmed/accept?run={name}"}


def labelled_images(datastore: Datastore) -> list[Labelled]:
    """Every image that has a final label, with what is known about the label."""
    return [
        Labelled(
            image_id,
            Path(datastore.get_image_uri(image_id)),
            Path(datastore.get_label_uri(image_id, "final")),
            datastore.get_label_info(image_id, "final"),
        )
        for image_id in datastore.get_labeled_images()
    ]


class PrsmedApp(MONAILabelApp):
    """The app. `serve.py` starts it; the stock starter has no gate and is refused."""

    gated = False

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, Any]):
        home = Path(conf["home"])
        self.served_by_name = {
            name: Served(home if name == "prsmed" else home / name, model, device=conf["device"])
            for name, model in conf["models"].items()
        }
        self.told: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="prsmed",
            description=f"Ask an image where something is. {NOT_A_MEDICAL_DEVICE}",
            version="1.0",
        )

    def init_datastore(self) -> Datastore:
        auto_reload = settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD
        if self.studies.startswith(("http://", "https://")):
            return DicomwebStudies(self.studies, Path(self.conf["home"]) / "dicomweb", auto_reload=auto_reload)
        return StudiesFolder(self.studies, auto_reload=auto_reload)

    def init_infers(self) -> dict[str, InferTask]:
        return {name: AskTask(served) for name, served in self.served_by_name.items()}

    def init_trainers(self) -> dict[str, TrainTask]:
        return {
            name: FineTuneTask(served, self.datastore().folder)
            for name, served in self.served_by_name.items()
            if served.predictor.info["task"] == "prs_med"
        }

    def init_strategies(self) -> dict[str, Any]:
        return {"random": Random(), "first": First()}

    def server_mode(self, mode: bool) -> None:
        if mode and not self.gated:
            raise RuntimeError("start this app with `python -m bundle.monailabel`; the stock starter has no gate")
        super().server_mode(mode)

    def next_sample(self, request: Mapping[str, Any]) -> Any:
        """The stock method without the image's path: to state it, a series would be fetched in the event loop."""
        return self._strategies[request["strategy"]](request, self.datastore())

    def study(self, image_id: str) -> Path:
        """The file of an image in the studies.

        Raises:
            DataError: there is none, or it lies elsewhere.
        """
        uri = self.datastore().get_image_uri(image_id)
        if not uri:
            raise DataError("image: the studies hold none of this id; GET /datastore/?output=all lists them")
        return study_file(self.datastore().folder, uri)

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """One image of a batch; the server's own route for single images is in `routes.py`."""
        image_id, tag = str(request["image"]), str(request.get("label_tag", "original"))
        try:
            path, params = self._infers[request["model"]]({**request, "image": self.study(image_id)})
        except PrsmedError as error:
            logger.warning("an image of the batch was not answered: %s", type(error).__name__)
            return {"error": type(error).__name__}
        try:
            kept = {key: params[key] for key in ("question", "answer", "modality", "model")}
            self.datastore().save_label(image_id, path, tag, kept)
        finally:
            shutil.rmtree(Path(path).parent)
        return {"label": image_id, "tag": tag}

    def remember(self, asked: tuple[str, str], params: Mapping[str, Any]) -> None:
        """Keep what somebody was last answered about an image (caller, id), for the label that they may save."""
        self.told[asked] = {key: params[key] for key in ("question", "answer", "modality", "model")}
        self.told.move_to_end(asked)
        while len(self.told) > _REMEMBERED:
            self.told.popitem(last=False)
