"""Tables: columns by name, rows of one image joined, and a refusal with its line for every row that does not fit."""

import pytest

from prsmed.data.sources import Defaults
from prsmed.data.sources.table import Columns, list_table
from prsmed.errors import DataError
from prsmed.types import MaskRef, Target

DEFAULTS = Defaults(name="set", root="data")


def _list(tmp_path, text, defaults=DEFAULTS, columns=Columns(), encoding="utf-8"):  # noqa: B008
    (tmp_path / "t.csv").write_text(text, encoding=encoding)
    return list_table(tmp_path / "t.csv", defaults, columns)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_full_row(tmp_path, delimiter, encoding):
    header = ["image", "id", "modality", "dataset", "target", "kind", "laterality", "mask", "group", "split", "licence"]
    cells = ["./i/影.png", "7", "CT", "LIDC", "lung", "Organ", "left", "m/a.png", "p 1", "val", "CC BY 4.0"]
    text = "\n".join(delimiter.join(line) for line in (header, cells))
    listing = _list(tmp_path, text, encoding=encoding)
    assert listing.refusals == []
    case = listing.found[0].case
    assert (case.id, case.image, case.modality, case.dataset) == ("set/7", "i/影.png", "ct", "LIDC")
    assert (case.group, case.split, case.root, case.source) == ("set/p 1", "val", "data", {"licence": "CC BY 4.0"})
    assert case.targets == (Target("t1", "lung", "organ", "left", (MaskRef("png", "m/a.png"),)),)


def test_empty_cells_fall_back_to_the_options(tmp_path):
    defaults = Defaults("set", "data", modality="mri", target="tumour", kind="lesion")
    (found,) = _list(tmp_path, "image,mask,modality,target\na.png,m.png,,\n", defaults).found
    case = found.case
    assert (case.modality, case.targets[0].name, case.targets[0].kind) == ("mri", "tumour", "lesion")
    assert (case.id, case.group, case.split, case.dataset) == ("set/a", "set/a", None, "set")


def test_no_modality_is_a_fact(tmp_path):
    (found,) = _list(tmp_path, "image,mask,target\na.png,m.png,disc\n").found
    assert found.case.modality is None


def test_rows_of_one_image_become_one_case(tmp_path):
    text = (
        "id,image,mask,target,label\n1,v.nii,m.nii,liver,6\n2,other.png,o.png,liver,\n"
        "3,./v.nii,m.nii,spleen,1\n4,v.nii,n.nii,liver,6\n"
    )
    listing = _list(tmp_path, text, columns=Columns(label="label"))
    assert listing.refusals == []
    first = listing.found[0]
    assert [found.case.id for found in listing.found] == ["set/1", "set/2"]
    assert first.rows == (2, 4)
    assert [(target.id, target.name, len(target.masks)) for target in first.case.targets] == [
        ("t1", "liver", 2),
        ("t2", "spleen", 1),
    ]
    assert first.case.targets[0].masks[1] == MaskRef("nifti", "n.nii", 6)


def test_columns_by_option(tmp_path):
    columns = Columns(image="file", mask="truth", target="what", group="patient")
    (found,) = _list(tmp_path, "file,truth,what,patient\na.png,m.png,polyp,9\n", columns=columns).found
    assert (found.case.image, found.case.group) == ("a.png", "set/9")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.png,,polyp,ct,train,", "mask is empty"),
        (",m.png,polyp,ct,train,", "image is empty"),
        ("a.png,m.png,,ct,train,", "no target name"),
        ("a.png,m.png,polyp,pet,train,", "modality is 'pet'"),
        ("a.png,m.png,polyp,ct,holdout,", "split is 'holdout'"),
        ("/data/a.png,m.png,polyp,ct,train,", "absolute path"),
        ("a.png,../m.png,polyp,ct,train,", "climbs out"),
        ("a.png,m.dcm,polyp,ct,train,", "there is no file"),
        ("a.nii,m.nii,polyp,ct,train,x", "label is 'x'"),
        ("a.png,m.png,polyp,ct,train,2", "a picture mask is binary"),
        ("a.png,m.png,polyp,ct,train,,more", "more cells than the header"),
        ("good.png,other.png,polyp,mri,train,", "modality of good.png is 'mri', an earlier row says 'ct'"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_and_the_rest_stays(tmp_path, row, message):
    text = f"image,mask,target,modality,split,label\ngood.png,g.png,polyp,ct,train,\n{row}\n"
    listing = _list(tmp_path, text, columns=Columns(label="label"))
    assert [found.case.id for found in listing.found] == ["set/good"]
    (refusal,) = listing.refusals
    assert message in refusal.reason and refusal.remedy and (refusal.file, refusal.row) == ("t.csv", 3)


def test_an_id_of_two_images_is_refused(tmp_path):
    listing = _list(tmp_path, "id,image,mask,target\n1,a.png,m.png,polyp\n1,b.png,m.png,polyp\n")
    assert len(listing.found) == 1 and "already that of a.png" in listing.refusals[0].reason


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("file,mask\na,b\n", Columns(), "no column 'image'.*--image-column"),
        ("image,mask\na,b\n", Columns(group="patient"), "no column 'patient' for the group.*--group-column"),
        ("", Columns(), "it has none"),
    ],
)
def test_a_missing_column_is_an_error(tmp_path, text, columns, message):
    with pytest.raises(DataError, match=message):
        _list(tmp_path, text, columns=columns)


def test_a_table_in_another_encoding_is_an_error(tmp_path):
    with pytest.raises(DataError, match="save the table as CSV UTF-8"):
        _list(tmp_path, "image,mask\nü.png,m.png\n", encoding="latin-1")
