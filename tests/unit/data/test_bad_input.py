"""One table of bad input: each case is refused by file and remedy, and the good image beside it is kept."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prsmed.data.build import build
from prsmed.data.manifest import read_manifest, write_manifest
from prsmed.errors import DataError

HEADER = "id,image,mask,modality,target\n"
GOOD_ROW = "good,good.png,good_mask.png,ct,lesion\n"
BAD_ROW = "bad,bad.png,bad_mask.png,ct,lesion\n"


def _save(path: Path, array: np.ndarray) -> None:
    Image.fromarray(array).save(path)


def _square(side: int = 16) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    mask[4:9, 4:9] = 255
    return mask


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A table's folder with two good pairs of noise pictures; a test spoils the one called bad."""
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("good", "bad"):
        _save(folder / f"{name}.png", rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        _save(folder / f"{name}_mask.png", _square())
    return folder


def _missing_image(data: Path) -> str:
    (data / "bad.png").unlink()
    return BAD_ROW


def _missing_mask(data: Path) -> str:
    (data / "bad_mask.png").unlink()
    return BAD_ROW


def _truncated_png(data: Path) -> str:
    whole = (data / "bad.png").read_bytes()
    (data / "bad.png").write_bytes(whole[: len(whole) // 2])
    return BAD_ROW


def _zero_bytes(data: Path) -> str:
    (data / "bad.png").write_bytes(b"")
    return BAD_ROW


def _not_an_image(data: Path) -> str:
    (data / "bad.png").write_text("<html>404</html>")
    return BAD_ROW


def _folder_for_a_file(data: Path) -> str:
    (data / "bad.png").unlink()
    (data / "bad.png").mkdir()
    return BAD_ROW


def _mask_of_another_size(data: Path) -> str:
    _save(data / "bad_mask.png", _square(12))
    return BAD_ROW


def _grey_mask(data: Path) -> str:
    _save(data / "bad_mask.png", np.arange(256, dtype=np.uint8).reshape(16, 16))
    return BAD_ROW


def _nan_tiff(data: Path) -> str:
    array = np.ones((16, 16), np.float32)
    array[3, 3] = np.nan
    _save(data / "bad.tif", array)
    return BAD_ROW.replace("bad.png", "bad.tif")


def _climbing_path(data: Path) -> str:
    os.rename(data / "bad.png", data.parent / "bad.png")
    return BAD_ROW.replace("bad.png", "../bad.png")


def _absolute_path(data: Path) -> str:
    return BAD_ROW.replace("bad.png", str(data / "bad.png"))


def _link_out_of_the_root(data: Path) -> str:
    os.rename(data / "bad.png", data.parent / "elsewhere.png")
    (data / "bad.png").symlink_to(data.parent / "elsewhere.png")
    return BAD_ROW


def _link_to_itself(data: Path) -> str:
    (data / "bad.png").unlink()
    (data / "bad.png").symlink_to("bad.png")
    return BAD_ROW


def _unknown_modality(data: Path) -> str:
    return BAD_ROW.replace(",ct,", ",pet,")


def _duplicate_id(data: Path) -> str:
    return BAD_ROW.replace("bad,", "good,", 1)


def _unsupported_format(data: Path) -> str:
    return BAD_ROW.replace("bad.png", "bad.webp")


@pytest.mark.parametrize(
    ("spoil", "file", "reason", "remedy"),
    [
        (_missing_image, "bad.png", "there is no file", "restore it"),
        (_missing_mask, "bad_mask.png", "there is no file", "restore it"),
        (_truncated_png, "bad.png", "cannot be decoded", "export it again"),
        (_zero_bytes, "bad.png", "empty (0 bytes)", "again"),
        (_not_an_image, "bad.png", "cannot be decoded", "export it again"),
        (_folder_for_a_file, "bad.png", "holds no DICOM file", "name the file or folder"),
        (_mask_of_another_size, "bad_mask.png", "mask is (12, 12), image is (16, 16)", "resample the mask"),
        (_grey_mask, "bad_mask.png", "not binary, it has 256 levels", "threshold it"),
        (_nan_tiff, "bad.tif", "NaN or infinite values", "replace them"),
        (_climbing_path, "t.csv", "'../bad.png' climbs out", "choose a folder"),
        (_absolute_path, "t.csv", "is an absolute path", "relative to it"),
        (_link_out_of_the_root, "bad.png", "a link that leads out of root", "put the file itself there"),
        (_link_to_itself, "bad.png", "bad.png", "correct the path" if sys.version_info < (3, 13) else "restore it"),
        (_unknown_modality, "t.csv", "modality is 'pet'", "use one of ct, mri"),
        (_duplicate_id, "t.csv", "id is already that of good.png", "give each image its own id"),
        (_unsupported_format, "bad.webp", "there is no file", "restore it"),
    ],
)
def test_bad_input_is_refused_and_nothing_else_is_lost(
    data: Path, spoil: Callable[[Path], str], file: str, reason: str, remedy: str
) -> None:
    (data / "t.csv").write_text(
        HEADER + spoil(data) + GOOD_ROW if spoil is not _duplicate_id else HEADER + GOOD_ROW + spoil(data)
    )
    report = build([str(data / "t.csv")], data / "out")
    assert [case.id for case in read_manifest(data / "out").cases] == ["data/good"]
    (refusal,) = report.refusals
    assert (refusal.file, refusal.row) == (file, 3 if spoil is _duplicate_id else 2)
    assert reason in refusal.reason and remedy in refusal.remedy
    assert file in refusal.reason or file == "t.csv"


def test_a_file_that_goes_missing_after_the_build_is_named(data: Path) -> None:
    (data / "t.csv").write_text(HEADER + GOOD_ROW)
    build([str(data / "t.csv")], data / "out")
    (data / "good.png").unlink()
    manifest = read_manifest(data / "out")
    with pytest.raises(DataError, match=r"case data/good: there is no file .*good\.png; restore it"):
        manifest.resolve(manifest.cases[0], manifest.cases[0].image)


@pytest.mark.parametrize("path", ["../data/good.png", "/etc/hostname", "link.png"])
def test_a_written_manifest_cannot_reach_out_of_its_root(data: Path, path: str) -> None:
    (data / "t.csv").write_text(HEADER + GOOD_ROW)
    build([str(data / "t.csv")], data)
    _save(data.parent / "outside.png", _square())
    (data / "link.png").symlink_to(data.parent / "outside.png")
    manifest = read_manifest(data)
    with pytest.raises(DataError):
        manifest.resolve(manifest.cases[0], path)


def test_nothing_usable_is_an_error_with_a_report(data: Path) -> None:
    (data / "t.csv").write_text(HEADER + _unknown_modality(data))
    with pytest.raises(DataError, match=r"nothing usable, 1 refused .*use one of ct"):
        build([str(data / "t.csv")], data / "out")
    assert [path.name for path in (data / "out").iterdir()] == ["refusals.jsonl"]


@pytest.mark.parametrize("content", [b"", b"\n\n", None], ids=["empty", "blank lines", "missing"])
def test_an_empty_manifest_says_how_to_make_one(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "manifest.jsonl").write_bytes(content)
    with pytest.raises(DataError, match="prsmed data build"):
        read_manifest(tmp_path)


def test_an_output_folder_that_cannot_be_written(data: Path) -> None:
    # a file in the folder's place: permissions would not stop a test that runs as root
    (data / "t.csv").write_text(HEADER + GOOD_ROW)
    (data / "out").write_text("mine")
    with pytest.raises(DataError, match=r"out.*cannot be written .*choose another output folder"):
        build([str(data / "t.csv")], data / "out" / "sub")
    with pytest.raises(DataError, match="choose another output folder"):
        write_manifest(data / "out", ())
    assert (data / "out").read_text() == "mine"


def test_a_read_only_output_folder(data: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("permissions do not bind root")
    (data / "t.csv").write_text(HEADER + GOOD_ROW)
    (data / "out").mkdir(mode=0o555)
    with pytest.raises(DataError, match="choose another output folder"):
        build([str(data / "t.csv")], data / "out")
    assert list((data / "out").iterdir()) == []


def test_what_must_simply_work(data: Path) -> None:
    """An empty mask, names in other letters, and no modality."""
    _save(data / "影像 ①.png", np.full((16, 16), 7, np.uint8))
    _save(data / "影像 ①_mask.png", np.zeros((16, 16), np.uint8))
    row = "影像,影像 ①.png,影像 ①_mask.png,,病変\n"
    (data / "t.csv").write_text(HEADER + GOOD_ROW + row, encoding="utf-8")
    report = build([str(data / "t.csv")], data / "out")
    assert report.refusals == () and report.images == 2
    case = read_manifest(data / "out").cases[1]
    assert (case.id, case.modality, case.targets[0].name) == ("data/影像", None, "病変")
    assert sum(count.negatives for count in report.counts) == 1


def test_a_file_name_that_is_no_valid_unicode(tmp_path: Path) -> None:
    for part, value in (("images", 9), ("masks", 0)):
        (tmp_path / part).mkdir()
        try:
            os.rename(_saved(tmp_path / "x.png", value), os.fsencode(tmp_path / part) + b"/\xff.png")
        except OSError:
            pytest.skip("this file system takes Unicode names only")
    assert build([str(tmp_path)], tmp_path / "out", target="lesion").images == 1
    manifest = read_manifest(tmp_path / "out")
    assert manifest.resolve(manifest.cases[0], manifest.cases[0].image).is_file()
    assert len(manifest.fingerprint()) == 64


def _saved(path: Path, value: int) -> Path:
    _save(path, np.full((16, 16), value, np.uint8))
    return path
