"""A full row survives the way to JSON and back; one wrong thing at a time is refused by name."""

import copy
import json

import pytest

from prsmed.data.rows import case_from_json, case_to_json
from prsmed.errors import DataError

# the example of the schema, with each kind of mask
ROW = {
    "schema_version": 1,
    "id": "set/a",
    "root": ".",
    "image": "images/a.png",
    "dicom_modality": "MR",
    "modality": "mri",
    "dataset": "set",
    "split": "train",
    "group": "patient 1",
    "series_uid": "1.2.3",
    "slice": {"axis": "axial", "index": 12},
    "targets": [
        {
            "id": "t1",
            "name": "polyp",
            "kind": "lesion",
            "laterality": "left",
            "masks": [
                {"png": "masks/a.png"},
                {"nifti": "m.nii.gz", "label": 3},
                {"seg": "s.dcm", "segment": 1},
                {"rtstruct": "r.dcm", "roi": "GTV-1"},
            ],
        },
        {"id": "t2", "name": "liver", "kind": "organ", "laterality": None, "masks": []},
    ],
    "queries": [
        {
            "id": "q1",
            "target_ids": ["t1"],
            "kind": "position",
            "length": "short",
            "question": "息肉在哪里",
            "answer": "...",
            "made_by": "template 3",
            "review": None,
        }
    ],
    "source": {"licence": "CC BY 4.0", "sha256": "00"},
}


def test_round_trip_keeps_every_key_and_its_order():
    assert json.dumps(case_to_json(case_from_json(ROW))) == json.dumps(ROW)


def test_what_has_a_default_may_be_left_out():
    case = case_from_json({"schema_version": 1, "id": "a", "image": "a.png", "group": "g"})
    assert (case.modality, case.split, case.root, case.targets, case.slice) == (None, None, ".", (), None)


def _changed(path, value):
    row = copy.deepcopy(ROW)
    *parents, last = path
    place = row
    for step in parents:
        place = place[step]
    place[last] = value
    return row


FIRST_MASK = ("targets", 0, "masks", 0)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema_version",), 2, "schema_version is 2, expected 1"),
        (("schema_version",), True, "schema_version is True"),
        (("id",), "", "id is ''"),
        (("group",), None, "group is None"),
        (("modality",), "pet", "modality is 'pet'; use one of ct, mri"),
        (("split",), "dev", "split is 'dev'"),
        (("colour",), "red", r"unknown keys \['colour'\]"),
        (("image",), "/etc/a.png", "absolute path"),
        (("image",), "C:\\a.png", "absolute path"),
        (("image",), "a/../../b.png", "climbs out"),
        (("image",), "a\\..\\b.png", "climbs out"),
        (("source",), [], "source is"),
        (("targets",), {}, "targets is"),
        (("targets", 1, "id"), "t1", "two of its target ids are equal"),
        (("targets", 0, "kind"), "tumour", "kind is 'tumour'"),
        (("targets", 0, "laterality"), "both", "laterality is 'both'"),
        (("targets", 0, "size"), 3, "unknown keys"),
        (FIRST_MASK, {"jpg": "a.jpg"}, "exactly one of the keys png"),
        (FIRST_MASK, {"png": "a.png", "nifti": "b.nii"}, "exactly one of the keys"),
        (FIRST_MASK, {"png": "a.png", "label": 1}, "unknown keys"),
        (FIRST_MASK, {"png": "../a.png"}, "climbs out"),
        (FIRST_MASK, {"nifti": "a.nii"}, "label of a.nii is None"),
        (FIRST_MASK, {"nifti": "a.nii", "label": 0}, "whole number from 1"),
        (FIRST_MASK, {"nifti": "a.nii", "label": True}, "whole number from 1"),
        (FIRST_MASK, {"rtstruct": "a.dcm", "roi": ""}, "roi is ''"),
        (("slice", "index"), -1, "slice index is -1"),
        (("slice", "axis"), "oblique", "axis is 'oblique'"),
        (("queries", 0, "target_ids"), ["t9"], r"\['t9'\] are not among the targets"),
        (("queries", 0, "kind"), "riddle", "kind is 'riddle'"),
        (("queries", 0, "question"), "  ", "question is"),
    ],
)
def test_one_wrong_thing_is_refused_by_case_and_remedy(path, value, message):
    with pytest.raises(DataError, match=message) as caught:
        case_from_json(_changed(path, value))
    who, _, remedy = str(caught.value).rpartition("; ")
    assert who.startswith("case ") and remedy


def test_a_row_is_an_object():
    with pytest.raises(DataError, match="row: is a list"):
        case_from_json([])
