"""Facts of DICOM files, and a pseudonym in place of the patient."""

import hashlib

import numpy as np

from prsmed.data.readers.dicom_header import read_dicom_header
from prsmed.errors import DataError
from tests.unit.data.readers.made_dicom import PATIENT, SERIES_UID, STUDY_UID, save, slice_of
from tests.unit.data.readers.made_segments import ct_slices, save_rtstruct, save_seg


def _header(tmp_path, **tags):
    return read_dicom_header(save(tmp_path, slice_of(0, **tags)) / "0.dcm")


def test_an_image(tmp_path):
    header = _header(tmp_path)
    assert (header.modality, header.series_uid, header.mask_kind, header.is_of_slices) == ("CT", SERIES_UID, None, True)
    assert read_dicom_header(tmp_path) == header  # the folder of its series
    assert not _header(tmp_path, Modality="US").is_of_slices


def test_a_seg_and_an_rtstruct(tmp_path):
    sources = ct_slices()
    seg = read_dicom_header(save_seg(tmp_path / "seg.dcm", sources, np.ones((3, 4, 5, 2), np.uint8)))
    assert (seg.mask_kind, seg.source_series) == ("seg", (SERIES_UID,))
    assert seg.regions == ((1, "first"), (2, "second"))
    rtstruct = read_dicom_header(save_rtstruct(tmp_path / "rs.dcm", {"GTV-1": [], "Lung_L": []}))
    assert (rtstruct.mask_kind, rtstruct.source_series) == ("rtstruct", (SERIES_UID,))
    assert rtstruct.regions == (("GTV-1", "GTV-1"), ("Lung_L", "Lung_L"))


def test_the_patient_is_a_pseudonym(tmp_path):
    patient = _header(tmp_path).patient
    # SHA-256 of issuer, unit separator, ID
    assert patient == "patient-" + hashlib.sha256(f"\x1f{PATIENT}".encode()).hexdigest()[:16]
    assert PATIENT not in repr(_header(tmp_path))
    assert _header(tmp_path, StudyInstanceUID="1.2.3").patient == patient
    others = [
        _header(tmp_path, PatientID="somebody else").patient,
        _header(tmp_path, IssuerOfPatientID="another hospital").patient,
        _header(tmp_path, PatientID="").patient,  # of the study then
    ]
    assert len({patient, *others}) == 4
    assert others[-1] == "patient-" + hashlib.sha256(STUDY_UID.encode()).hexdigest()[:16]
    assert _header(tmp_path, PatientID=None, StudyInstanceUID=None).patient == ""


def test_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("no DICOM")
    assert read_dicom_header(tmp_path / "notes.txt") is None and read_dicom_header(tmp_path) is None


def test_damaged_headers_are_refused_or_read_as_far_as_they_go(tmp_path):
    whole = save_rtstruct(tmp_path / "rs.dcm", {"GTV-1": []}).read_bytes()
    refused = 0
    for length in range(140, len(whole), 7):
        (tmp_path / "cut").write_bytes(whole[:length])
        try:
            assert read_dicom_header(tmp_path / "cut") is not None
        except DataError as error:
            assert "header cannot be parsed; export the file again" in str(error) and PATIENT not in str(error)
            refused += 1
    assert refused
