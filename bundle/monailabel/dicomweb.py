"""The series of a DICOMweb service (PS3.18) as studies: listed by QIDO-RS, fetched by WADO-RS; labels go by STOW-RS."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from dicomweb_client import DICOMwebClient
from dicomweb_client.session_utils import create_session_from_user_pass
from monailabel.config import settings
from monailabel.datastore.utils.dicom import dicom_web_upload_dcm
from requests import RequestException, Session

from bundle.monailabel.studies import StudiesFolder
from prsmed.data.readers import read_image, read_mask
from prsmed.data.writers.dicom_seg import save_dicom, write_dicom_seg
from prsmed.errors import DataError
from prsmed.types import MODALITY_OF_DICOM, MaskRef

logger = logging.getLogger(__name__)

SERIES_LISTED_AT_MOST = 1000
_LOOK_EVERY_S = 60.0
_TIMEOUT_S = 30.0
_AS_STORED = (("application/dicom", "*"),)  # in whichever transfer syntax: not every service can convert
_TAGS = {"uid": "0020000E", "study": "0020000D", "modality": "00080060", "instances": "00201209"}
_UID = re.compile(r"(?=.{1,64}\Z)[0-9]+(?:\.[0-9]+)*")  # PS3.5 9.1; it becomes the name of a folder


class DicomwebStudies(StudiesFolder):
    """Every series of a modality that is known here; its folder under `cache` is empty until the series is asked about.

    Args:
        url: of the DICOMweb service; user and password come from MONAI_LABEL_DICOMWEB_USERNAME and _PASSWORD.
        cache: holds the fetched series, and the labels.

    Raises:
        DataError: the server does not answer.
    """

    def __init__(self, url: str, cache: Path, *, auto_reload: bool):
        user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
        self.url = url.rstrip("/")
        self.session = create_session_from_user_pass(user, password) if user else Session()
        self.client = DICOMwebClient(self.url, session=self.session, timeout=_TIMEOUT_S)
        self._series: dict[str, tuple[str, int]] = {}  # study, and how many instances the service has; 0: unknown
        self._fetched: dict[str, int] = {}  # how many it had when the series was fetched
        self._fetching = threading.Lock()
        folder = cache / hashlib.sha256(self.url.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._look(folder)
        super().__init__(str(folder), auto_reload=auto_reload)
        if auto_reload:
            threading.Thread(target=self._keep_looking, daemon=True).start()

    def get_image_uri(self, image_id: str) -> str:
        """The folder of a series, which is fetched the first time; an empty text for an unknown id.

        Raises:
            DataError: the server does not hand it out.
        """
        uri = super().get_image_uri(image_id)
        _, instances = self._series.get(image_id, ("", 0))  # once: it is replaced while this looks
        if uri and image_id in self._series:
            with self._fetching:
                here = sum(1 for _ in Path(uri).iterdir())
                had = self._fetched.get(image_id, here) if here else -1
                if instances > had or not here:  # not yet, or not as a whole when it was fetched
                    self._fetch(image_id, Path(uri))
        return uri

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a label here; one that a person made is also sent to the server, as DICOM SEG. An empty one is no SEG.

        Raises:
            DataError: it is saved here, and the server did not take it.
        """
        saved = super().save_label(image_id, label_filename, label_tag, label_info)
        if label_tag == "final":
            self._send(self.get_image_uri(image_id), self.get_label_uri(image_id, label_tag), label_info)
        return saved

    def _is_series(self, folder: Path) -> bool:
        return True

    def _look(self, folder: Path) -> None:
        try:
            found = self.client.search_for_series(limit=SERIES_LISTED_AT_MOST, fields=[_TAGS["instances"]])
        except RequestException as error:
            raise DataError(
                f"the DICOMweb service does not answer ({type(error).__name__}); check its address, user and password"
            ) from error
        if len(found) == SERIES_LISTED_AT_MOST:
            logger.warning("the DICOMweb service has %d series or more; the others are not listed", len(found))
        stated = [{name: _value(series, tag) for name, tag in _TAGS.items()} for series in found]
        self._series = {
            one["uid"]: (one["study"], int(one["instances"] or 0))
            for one in stated
            if one["modality"] in MODALITY_OF_DICOM and _UID.fullmatch(one["uid"])
        }
        for uid in self._series:
            (folder / uid).mkdir(exist_ok=True)

    def _keep_looking(self) -> None:
        while True:
            time.sleep(_LOOK_EVERY_S)
            try:
                self._look(self.folder)
                self.refresh()
            except DataError as error:
                logger.warning("%s", error)

    def _fetch(self, uid: str, target: Path) -> None:
        study, instances = self._series[uid]
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=self.folder) as scratch:
            part = Path(scratch) / "series"
            part.mkdir()
            try:
                images = self.client.iter_series(study, uid, media_types=_AS_STORED)
                for number, image in enumerate(images):
                    save_dicom(image, part / f"{number:05}.dcm")
            except RequestException as error:
                raise DataError(f"the DICOMweb service does not send the series ({type(error).__name__})") from error
            if any(target.iterdir()):
                target.rename(Path(scratch) / "before")
            part.replace(target)
            self._fetched[uid] = instances

    def _send(self, series: str, label: str, info: dict[str, Any]) -> None:
        source = read_image(series)
        mask = read_mask(label, MaskRef("nifti", label, 1) if source.is_volume else MaskRef("png", label), source)
        folder = Path(tempfile.mkdtemp(prefix="prsmed-seg-"))
        try:
            path = write_dicom_seg(
                folder / "label.dcm",
                mask,
                source,
                target=info["target"],
                kind=info["kind"],
                model=info["model"],
                is_corrected=info["model"] is not None,
            )
            if path is None:
                return
            stored = dicom_web_upload_dcm(str(path), self.client)
        except RequestException as error:
            raise DataError(
                f"the label is saved on this server, but the DICOMweb service did not take it ({type(error).__name__});"
                " save it again later"
            ) from error
        finally:
            shutil.rmtree(folder)
        if not stored:
            raise DataError("the label is saved on this server, but the DICOMweb service refused it; see its log")


def _value(series: dict[str, Any], tag: str) -> str:
    """The first value of a tag in the DICOM JSON model (PS3.18 F.2), empty where there is none."""
    return str((series.get(tag, {}).get("Value") or [""])[0])
