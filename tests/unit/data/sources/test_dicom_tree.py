"""DICOM series and what was drawn on them, found by the series they name."""

import numpy as np
import pytest

from prsmed.data.readers.dicom_header import read_dicom_header
from prsmed.data.sources import Defaults
from prsmed.data.sources.dicom_tree import is_dicom_tree, list_dicom_tree
from prsmed.errors import DataError
from prsmed.types import MaskRef
from tests.unit.data.readers.made_dicom import PATIENT, SERIES_UID, save, slice_of
from tests.unit.data.readers.made_segments import ct_slices, save_rtstruct, save_seg

DEFAULTS = Defaults(name="set", root="data")


@pytest.fixture
def tree(tmp_path):
    """A CT series, in a folder named after its patient, with a SEG of two segments and an RTSTRUCT beside it."""
    sources = ct_slices()
    save(tmp_path / PATIENT / "ct", *sources)
    save_seg(tmp_path / PATIENT / "seg", sources, np.ones((3, 4, 5, 2), np.uint8))
    save_rtstruct(tmp_path / "rs.dcm", {"GTV-1": []})
    (tmp_path / "notes.txt").write_text("not DICOM")
    return tmp_path


def test_regions_go_with_the_series_they_name(tree):
    listing = list_dicom_tree(tree, DEFAULTS)
    assert listing.refusals == [] and is_dicom_tree(tree)
    (found,) = listing.found
    case = found.case
    assert (case.image, case.series_uid, case.root, case.split) == (f"{PATIENT}/ct", SERIES_UID, "data", None)
    assert [(target.id, target.name, target.masks) for target in case.targets] == [
        ("t1", "first", (MaskRef("seg", f"{PATIENT}/seg", 1),)),
        ("t2", "second", (MaskRef("seg", f"{PATIENT}/seg", 2),)),
        ("t3", "gtv-1", (MaskRef("rtstruct", "rs.dcm", "GTV-1"),)),
    ]
    assert found.rows == (None, None, None)
    assert case.id.startswith("set/series-") and case.group.startswith("set/patient-")
    assert PATIENT not in case.id + case.group


def test_regions_of_one_name_are_one_target(tree):
    save_rtstruct(tree / "rs2.dcm", {"gtv-1 ": []})
    (found,) = list_dicom_tree(tree, DEFAULTS).found
    masks = {target.name: [mask.path for mask in target.masks] for target in found.case.targets}
    assert sorted(masks) == ["first", "gtv-1", "second"] and sorted(masks["gtv-1"]) == ["rs.dcm", "rs2.dcm"]


def test_what_has_no_partner_is_refused(tree):
    save(tree / "other", slice_of(0, SeriesInstanceUID="1.2.3", PatientID="other"))
    save_rtstruct(tree / "lost.dcm", {"GTV": []}, series_uid="1.2.4")
    refusals = {refusal.file: refusal for refusal in list_dicom_tree(tree, DEFAULTS).refusals}
    assert refusals.keys() == {"other/0.dcm", "lost.dcm"}
    assert "no SEG or RTSTRUCT names this series" in refusals["other/0.dcm"].reason
    assert "(1.2.4) is not here" in refusals["lost.dcm"].reason


def test_one_name_for_one_region_only(tree):
    named = Defaults(name="set", root="data", target="tumour")
    (refusal,) = list_dicom_tree(tree, named).refusals
    assert "has the regions first, second, GTV-1, not one" in refusal.reason
    (tree / PATIENT / "seg").unlink()
    (found,) = list_dicom_tree(tree, named).found
    assert [target.name for target in found.case.targets] == ["tumour"]


def test_series_of_one_folder_stay_apart(tmp_path):
    save(tmp_path, *ct_slices(), *ct_slices(SeriesInstanceUID="1.2.3"))
    save_rtstruct(tmp_path / "a.dcm", {"one": []})
    save_rtstruct(tmp_path / "b.dcm", {"two": []}, series_uid="1.2.3")
    cases = {found.case.series_uid: found.case for found in list_dicom_tree(tmp_path, DEFAULTS).found}
    assert {uid: (case.image, case.targets[0].name) for uid, case in cases.items()} == {
        SERIES_UID: (".", "one"),
        "1.2.3": (".", "two"),
    }
    assert len({case.id for case in cases.values()}) == 2 and len({case.group for case in cases.values()}) == 1


def test_a_damaged_header_costs_its_file_only(tree, monkeypatch):
    def read(path):
        if path.name == "broken":
            raise DataError(f"{path}: the DICOM header cannot be parsed; export the file again")
        return read_dicom_header(path)

    (tree / "broken").touch()
    monkeypatch.setattr("prsmed.data.sources.dicom_tree.read_dicom_header", read)
    listing = list_dicom_tree(tree, DEFAULTS)
    assert len(listing.found) == 1 and [refusal.file for refusal in listing.refusals] == ["broken"]


def test_no_dicom(tmp_path):
    (tmp_path / "a.txt").write_text("no")
    assert not is_dicom_tree(tmp_path)
