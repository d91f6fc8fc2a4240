"""Folders: which file belongs to which, and what is said of files that belong to nothing."""

from pathlib import Path

import pytest

from prsmed.data.sources import Defaults
from prsmed.data.sources.folder import list_folder
from prsmed.errors import DataError
from prsmed.types import MaskRef

DEFAULTS = Defaults(name="set", root="data", modality="ct", target="polyp")


def _touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_pairs_by_name_with_the_two_endings(tmp_path):
    _touch(tmp_path, "images/a.jpg", "images/b.png", "images/c.nii.gz", "images/p1/a.png")
    _touch(tmp_path, "masks/a.png", "masks/b_mask.png", "masks/c_segmentation.nii.gz", "masks/p1/a.png")
    listing = list_folder(tmp_path, DEFAULTS)
    assert listing.refusals == []
    masks = {found.case.id: found.case.targets[0].masks for found in listing.found}
    assert masks == {
        "set/a": (MaskRef("png", "masks/a.png"),),
        "set/b": (MaskRef("png", "masks/b_mask.png"),),
        "set/c": (MaskRef("nifti", "masks/c_segmentation.nii.gz"),),
        "set/p1/a": (MaskRef("png", "masks/p1/a.png"),),
    }
    case = listing.found[0].case
    assert (case.modality, case.dataset, case.root, case.group, case.split) == ("ct", "set", "data", "set/a", None)
    assert (case.targets[0].name, case.targets[0].kind) == ("polyp", "lesion")


def test_what_has_no_partner_or_two_is_refused(tmp_path):
    _touch(tmp_path, "images/alone.png", "images/two.png", "images/two.jpg", "images/notes.txt", "images/.DS_Store")
    _touch(tmp_path, "masks/two.png", "masks/orphan.png", "images/many.png", "masks/many.png", "masks/many_mask.png")
    listing = list_folder(tmp_path, DEFAULTS)
    assert [found.case.image for found in listing.found] == ["images/two.jpg"]
    refused = {refusal.file: refusal.reason for refusal in listing.refusals}
    assert set(refused) == {
        "images/alone.png",
        "images/two.png",
        "images/notes.txt",
        "images/many.png",
        "masks/orphan.png",
    }
    assert "no mask" in refused["images/alone.png"]
    assert "same name as images/two.jpg" in refused["images/two.png"]
    assert "several masks fit" in refused["images/many.png"]
    assert all(refusal.remedy for refusal in listing.refusals)


def test_one_name_in_two_unicode_forms_is_one_name(tmp_path):
    # U+00E9, and e with the combining accent U+0301, as macOS writes it
    _touch(tmp_path, "images/caf\u00e9.png", "masks/cafe\u0301.png")
    (found,) = list_folder(tmp_path, DEFAULTS).found
    assert found.case.targets[0].masks[0].path == "masks/cafe\u0301.png"


def test_groups_file(tmp_path):
    _touch(tmp_path, *(f"{part}/{name}.png" for part in ("images", "masks") for name in "abc"))
    (tmp_path / "groups.csv").write_text("image,group\na.png,patient 1\nb,patient 1\n", encoding="utf-8-sig")
    groups = [found.case.group for found in list_folder(tmp_path, DEFAULTS).found]
    assert groups == ["set/patient 1", "set/patient 1", "set/c"]


def test_a_groups_file_in_other_words_is_told(tmp_path):
    """A suffix in capitals is one all the same; a line that fits no image could leave its patient on two sides."""
    _touch(tmp_path, *(f"{part}/{name}.PNG" for part in ("images", "masks") for name in "ab"))
    (tmp_path / "groups.csv").write_text("image,group\na.PNG,p\nb,p\nimages/a.PNG,p\n")
    listing = list_folder(tmp_path, DEFAULTS)
    assert [found.case.group for found in listing.found] == ["set/p", "set/p"]
    (refusal,) = listing.refusals
    assert refusal.file == "groups.csv" and "images/a is no image in images/" in refusal.reason


@pytest.mark.parametrize("text", ["name,patient\na,1\n", "image,group\na,\n", "image,group\na\n"])
def test_a_groups_file_that_says_nothing_is_an_error(tmp_path, text):
    _touch(tmp_path, "images/a.png", "masks/a.png")
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(DataError, match=r"groups\.csv"):
        list_folder(tmp_path, DEFAULTS)


def test_a_folder_needs_a_target_name(tmp_path):
    with pytest.raises(DataError, match="--target"):
        list_folder(tmp_path, Defaults("set", "set"))
