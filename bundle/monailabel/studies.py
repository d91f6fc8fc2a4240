"""The studies folder as MONAI Label's datastore: confined to the folder, and never half written."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, LocalDatastore
from monailabel.interfaces.exception import ImageNotFoundException

from prsmed.data.containment import file_inside
from prsmed.data.readers import IMAGE_SUFFIXES, image_suffix, is_dicom, read_image
from prsmed.data.readers.extent import require_modest
from prsmed.data.readers.labels import read_labels
from prsmed.data.writers.nifti import write_mask_like, write_nifti
from prsmed.data.writers.picture import write_mask
from prsmed.errors import DataError

EXTENSIONS = tuple(f"*{suffix}" for suffix in IMAGE_SUFFIXES)
_GRID_TOLERANCE_MM = 1e-2


class StudiesFolder(LocalDatastore):
    """MONAI Label's local datastore, whose files cannot lie outside the folder and appear whole.

    An image is a file, or a sub-folder that holds one DICOM series; its id is the name, of a file without its suffix.
    """

    def __init__(self, folder: str, *, auto_reload: bool):
        super().__init__(folder, extensions=EXTENSIONS, auto_reload=auto_reload)
        if auto_reload:  # files are moved into place here, by the batch's own process too
            self._handler.on_moved = self._on_any_event

    @property
    def folder(self) -> Path:
        """Where the images lie."""
        return Path(self._datastore_path).resolve()

    def get_image_uri(self, image_id: str) -> str:
        """The image's file or folder; an empty text for an unknown id, or for a link that leads out of the studies."""
        return self._inside(super().get_image_uri(image_id))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """As the stock method; a series is announced as the NIfTI that a client gets of it."""
        info = super().get_image_info(image_id)
        if "path" in info and Path(info["path"]).is_dir():
            info |= {"name": f"{image_id}.nii.gz"}
            del info["path"]
        return info

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """The label's file; as `get_image_uri`."""
        return self._inside(super().get_label_uri(label_id, label_tag))

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """As the stock method, but a reader sees the old label or the whole new one."""
        entry = self._datastore.objects.get(image_id)
        if not entry:
            raise ImageNotFoundException(f"Image {image_id} not found")
        _, extension = self._to_id(os.path.basename(label_filename))
        folder = Path(self._datastore.label_path(label_tag))
        with FileLock(self._lock_file):
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / self._filename(image_id, extension)
            part = folder / f".{target.name}.{os.getpid()}.tmp"
            shutil.copyfile(label_filename, part)
            part.replace(target)
            info = {**label_info, "ts": int(time.time()), "name": target.name}
            entry.labels[label_tag] = DataModel(info=info, ext=extension)
            self._update_datastore_file(lock=False)
        return image_id

    def _update_datastore_file(self, lock: bool = True) -> None:
        if lock:
            with FileLock(self._lock_file):
                self._update_datastore_file(lock=False)
            return
        path = Path(self._datastore_config_path)
        part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        part.write_text(json.dumps(self._datastore.model_dump(exclude={"base_path"}), indent=2, default=str))
        part.replace(path)
        self._config_ts = path.stat().st_mtime

    def _inside(self, uri: str) -> str:
        if not uri:
            return ""
        files = [Path(uri), *Path(uri).rglob("*")]  # of a series every file
        return uri if all(file.resolve().is_relative_to(self.folder) for file in files) else ""

    def _to_id(self, file: str) -> tuple[str, str]:
        suffix = image_suffix(file) or ""
        return file[: len(file) - len(suffix)], file[len(file) - len(suffix) :]

    def _list_files(self, path: str, patterns: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = super()._list_files(path, patterns)
        if Path(path).resolve() == self.folder:
            own = ("labels", *found)
            folders = [entry for entry in self.folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
            found |= {entry.name: entry.name for entry in folders if entry.name not in own and self._is_series(entry)}
        return found

    def _is_series(self, folder: Path) -> bool:
        return any(is_dicom(file) for file in folder.rglob("*"))


def label_on_grid(sent: Path, image: Path, out: Path) -> Path:
    """Check a label map that a person made against its image, and write it as the image's mask.

    Args:
        sent: a NIfTI, NRRD or MetaImage; every label above 0 counts.
        out: a folder that exists.

    Returns:
        mask.nii.gz for a volume, mask.png for a picture, in `out`.

    Raises:
        DataError: it cannot be read, or lies on another grid.
    """
    require_modest(sent)
    labels = read_labels(sent)
    source = read_image(image)
    mask = labels.array > 0
    if not source.is_volume:
        if mask.ndim != 3 or mask.shape[2] != 1:
            raise DataError(f"label: {mask.shape} voxels, the image is a picture; save one slice")
        mask = mask[:, :, 0].T
    expected = source.array.shape if source.is_volume else source.array.shape[:2]
    is_moved = source.is_volume and not _same_place(labels, source)
    if mask.shape != expected or is_moved:
        raise DataError(
            f"label: {mask.shape} voxels{' in another place' if is_moved else ''}, the image has {expected}; "
            "export it with the image as reference volume"
        )
    if source.is_volume:
        path = out / "mask.nii.gz"
        write_mask_like(path, mask, source)
    else:
        path = out / "mask.png"
        write_mask(path, mask)
    return path


def _same_place(labels: Any, source: Any) -> bool:
    return bool((abs(labels.affine_ijk_to_ras - source.affine_ijk_to_ras) < _GRID_TOLERANCE_MM).all())


def study_file(root: Path, uri: str) -> Path:
    """The path of an image that a datastore named, which must lie in its folder.

    Raises:
        DataError: it does not, or is gone.
    """
    return file_inside(root, os.path.relpath(uri, root), "image")


def series_as_file(series: Path, out: Path) -> Path:
    """What a client gets of a DICOM series: one NIfTI; of a single picture its DICOM file.

    Args:
        out: a folder that exists.

    Raises:
        DataError: the series cannot be read.
    """
    source = read_image(series)
    if source.affine_ijk_to_ras is None:
        assert source.series is not None
        return Path(source.series.files[0])
    path = out / "image.nii.gz"
    write_nifti(path, source.array, source.affine_ijk_to_ras)
    return path
