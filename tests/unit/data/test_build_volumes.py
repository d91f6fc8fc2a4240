"""Building from volumes and DICOM: rows without pixels, slices when they are asked for, patients in one split."""

import json
import logging

import numpy as np
import pytest
import SimpleITK

from prsmed.data.build import build
from prsmed.data.manifest import read_manifest
from prsmed.data.preprocessing import Preprocessing
from prsmed.data.sources.table import Columns
from prsmed.data.writers.nifti import write_nifti
from prsmed.errors import DataError
from prsmed.samples import items_of, load_item, truth_of
from tests.unit.data.readers.made_dicom import PATIENT, SERIES_UID, picture, save
from tests.unit.data.readers.made_segments import box_contour, ct_slices, save_rtstruct, save_seg

ALL_SLICES = {"axis": "axial", "choice": "all"}
# voxels 1 to 3 along columns and 1 to 2 along rows, in the middle slice (centres at x = -10 + 2 i, y = 20 + 3 j)
BOX = box_contour((-9, -3), (21.5, 27.5), 2.5)


@pytest.fixture
def preprocessing(repository):
    config = json.loads((repository / "configs/train.json").read_text(encoding="utf-8"))
    return Preprocessing(config["preprocessing_steps"])


def _segment(*slices):
    frames = np.zeros((3, 4, 5, 1), np.uint8)
    frames[list(slices), 1:3, 1:4] = 1
    return frames


def _build(folder, *rows, **options):
    """Build from a table of image, mask, target and region."""
    (folder / "t.csv").write_text("\n".join(["image,mask,target,region", *rows]) + "\n")
    return build([f"set={folder / 't.csv'}"], folder / "out", columns=Columns(label="region"), **options)


def _items(folder, preprocessing):
    """Items of all splits by key, and the number of pixels of each one's true mask."""
    manifest = read_manifest(folder)
    items = []
    for split in {case.split for case in manifest.cases if case.modality}:
        items += items_of(manifest, split, slices=ALL_SLICES)
    for item in items:
        assert load_item(manifest, item, preprocessing)["label"].any()
    return {item.key: int(truth_of(manifest, item)[1].sum()) for item in items}


def test_a_table_of_volumes_and_series(tmp_path, preprocessing):
    sources = ct_slices()
    save(tmp_path / "ct", *sources)
    save_seg(tmp_path / "seg.dcm", sources, _segment(0, 1))
    save_rtstruct(tmp_path / "rs", {"GTV-1": [BOX], "Lung": [BOX]})
    labels = np.zeros((5, 6, 7), np.uint8)
    labels[1:3, 2:5, 3] = 4
    write_nifti(tmp_path / "mr.nii.gz", np.zeros(labels.shape, np.int16), np.eye(4))
    write_nifti(tmp_path / "mr_mask.nii.gz", labels, np.eye(4))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(labels.T), str(tmp_path / "labels.nrrd"))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ones(labels.T.shape, np.int16)), str(tmp_path / "node.nrrd"))
    rows = (
        "ct,seg.dcm,liver,",
        "ct,rs,tumour,GTV-1",
        "mr.nii.gz,mr_mask.nii.gz,tumour,4",
        "node.nrrd,labels.nrrd,node,",
    )
    report = _build(tmp_path, *rows)
    assert report.refusals == ()
    cases = {case.image: case for case in read_manifest(tmp_path / "out").cases}
    ct = cases["ct"]
    assert (ct.modality, ct.dicom_modality, ct.series_uid, ct.slice) == ("ct", "CT", SERIES_UID, None)
    assert [(target.name, target.masks[0].kind, target.masks[0].selector) for target in ct.targets] == [
        ("liver", "seg", 1),
        ("tumour", "rtstruct", "GTV-1"),
    ]
    assert ct.group.startswith("set/patient-") and cases["mr.nii.gz"].group == "set/mr"
    assert cases["node.nrrd"].targets[0].masks[0].selector == 4
    assert cases["mr.nii.gz"].modality is None  # the file does not say it, and it is never guessed
    assert _items(tmp_path / "out", preprocessing) == {
        "set/ct/t1@axial0": 6,
        "set/ct/t1@axial1": 6,
        "set/ct/t2@axial1": 6,
    }


def test_a_folder_of_volumes_and_series(tmp_path, preprocessing):
    sources = ct_slices()
    save(tmp_path / "images" / "a", *sources)
    (tmp_path / "masks").mkdir()
    save_seg(tmp_path / "masks" / "a.dcm", sources, _segment(2))
    save(tmp_path / "images" / "b", *ct_slices(SeriesInstanceUID="1.2.3", PatientID="b"))
    (tmp_path / "masks" / "b_mask").mkdir()
    save_rtstruct(tmp_path / "masks" / "b_mask" / "RS", {"GTV": [BOX]}, series_uid="1.2.3")
    save(tmp_path / "images", picture(np.full((8, 8), 7, np.uint8), Modality="DX"), names=["chest.dcm"])
    (tmp_path / "images" / "c.txt").write_text("no image")
    report = build([f"set={tmp_path}"], tmp_path / "out", target="lesion")
    refused = {refusal.file: refusal.reason for refusal in report.refusals}
    assert refused.keys() == {"images/c.txt", "images/chest.dcm"}
    assert "no mask of this name" in refused["images/chest.dcm"]
    keys = _items(tmp_path / "out", preprocessing)
    assert keys == {"set/a/t1@axial2": 6, "set/b/t1@axial1": 6}


def test_a_dicom_tree(tmp_path, preprocessing, caplog):
    for number, patient in enumerate((PATIENT, PATIENT, "second", "third")):
        folder, uid = tmp_path / "data" / f"study{number}", f"1.2.{number}"
        slices = ct_slices(SeriesInstanceUID=uid, PatientID=patient, StudyInstanceUID=f"1.3.{number}")
        save(folder / "ct", *slices)
        save_seg(folder / "seg.dcm", slices, _segment(1))
    with caplog.at_level(logging.DEBUG):
        report = build([f"set={tmp_path / 'data'}"], tmp_path / "out")
    assert report.images == 4 and report.refusals == ()
    cases = read_manifest(tmp_path / "out").cases
    assert len({case.group for case in cases}) == 3 and len({case.source["sha256"] for case in cases}) == 4
    for group in {case.group for case in cases}:
        assert len({case.split for case in cases if case.group == group}) == 1
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert PATIENT.encode() not in written and PATIENT not in caplog.text
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) < 5000  # facts, no pixels
    assert list(_items(tmp_path / "out", preprocessing).values()) == [6, 6, 6, 6]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("ct,rs,tumour,", "holds not one region but GTV-1 (GTV-1), Lung (Lung)"),
        ("ct,rs,tumour,GTV-2", "holds no single region 'GTV-2'"),
        ("ct,ct/0.dcm,tumour,", "masks of this format are not read"),
        ("ct,gone.dcm,tumour,", "there is no file"),
        ("empty,rs,tumour,Lung", "holds no DICOM file"),
        ("../ct,rs,tumour,Lung", "climbs out"),
    ],
)
def test_rows_of_dicom_that_do_not_fit(tmp_path, row, reason):
    save(tmp_path / "ct", *ct_slices())
    (tmp_path / "empty").mkdir()
    save_rtstruct(tmp_path / "rs", {"GTV-1": [BOX], "Lung": [BOX]})
    report = _build(tmp_path, "ct,rs,lungs,Lung", row)
    (refusal,) = report.refusals
    assert reason in refusal.reason and refusal.remedy and report.images == 1


def test_a_modality_that_the_file_contradicts(tmp_path):
    save(tmp_path / "ct", *ct_slices())
    save_rtstruct(tmp_path / "rs", {"Lung": [BOX]})
    with pytest.raises(DataError, match=r"modality is given as mri, the file says CT \(ct\)"):
        _build(tmp_path, "ct,rs,lungs,Lung", modality="mri")


def test_real_volumes(tmp_path, shared_data):
    """Their table names modalities by other words than ours, so that column is left out; one mask has 42 labels."""
    columns = Columns(id="name", target="label", modality="")
    report = build([f"set={shared_data / 'volumes' / 'manifest.csv'}"], tmp_path, columns=columns)
    assert report.images == 9 and {count.negatives for count in report.counts} == {0}
    (refusal,) = report.refusals
    assert refusal.case_id == "set/totalseg_example" and "holds the labels [1, 2," in refusal.reason


def test_real_series(tmp_path, shared_data, preprocessing):
    """A PET and a CT series with RTSTRUCT, three CT slices with SEG; the others have nothing drawn on them."""
    report = build([f"set={shared_data / 'dicom'}"], tmp_path)
    cases = {case.dicom_modality + case.targets[0].masks[0].kind: case for case in read_manifest(tmp_path).cases}
    assert {key: (case.modality, case.targets[0].name) for key, case in cases.items()} == {
        "PTrtstruct": (None, "gtv_mass_pet"),
        "CTrtstruct": ("ct", "gtv-1"),
        "CTseg": ("ct", "liver"),
    }
    assert {refusal.reason.split(": ")[1] for refusal in report.refusals} == {"no SEG or RTSTRUCT names this series"}
    pixels = _items(tmp_path, preprocessing)
    volume_px = sum(count for key, count in pixels.items() if cases["CTrtstruct"].id in key)
    # the same phantom's mask in volumes/ has 125256 voxels (manifest.csv), drawn by another tool
    assert volume_px == pytest.approx(125256, rel=0.05)
