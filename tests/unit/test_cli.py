"""The `prsmed` command's own part: options, data folders, exit codes. Asking and scoring: tests/workflow."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prsmed.cli import main
from prsmed.cli.asking import _slice_ref
from prsmed.data.manifest import read_manifest
from prsmed.errors import RequestError
from prsmed.types import NOT_A_MEDICAL_DEVICE, SliceRef

Command = Callable[..., int]


@pytest.fixture
def prsmed(monkeypatch: pytest.MonkeyPatch) -> Command:
    def command(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["prsmed", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        return exit_.value.code or 0

    return command


def test_help_says_what_it_is_not(prsmed: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert prsmed("--help") == 0
    assert NOT_A_MEDICAL_DEVICE.split(":")[0] in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("text", "position"), [("axial:12", SliceRef("axial", 12)), (None, None)])
def test_a_slice_is_read(text: str | None, position: SliceRef | None) -> None:
    assert _slice_ref(text) == position


@pytest.mark.parametrize("text", ["axial", "12", "axial:", "axial:-1", "axial:1.5", "oblique:1", "axial:1:2", ""])
def test_a_slice_that_makes_no_sense(text: str) -> None:
    with pytest.raises(RequestError, match="AXIS:INDEX"):
        _slice_ref(text)


def test_phantoms_are_written_once(prsmed: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("data", "phantoms", tmp_path / "phantoms", "--pictures", 6, "--volumes", 0, "--seed", 2)
    assert prsmed(*words) == 0
    assert len(read_manifest(tmp_path / "phantoms").cases) == 6
    capsys.readouterr()
    assert prsmed(*words) == 1
    assert "choose another or empty it" in capsys.readouterr().err


def test_a_folder_is_indexed_and_a_bad_row_is_told(
    prsmed: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("images", "masks"):
        (tmp_path / "polyps" / part).mkdir(parents=True)
    for index in range(4):
        picture_HW = np.full((8, 9), 40 * index, dtype=np.uint8)
        Image.fromarray(picture_HW).save(tmp_path / "polyps" / "images" / f"{index}.png")
        mask_HW = np.zeros((8, 9) if index else (7, 9), dtype=np.uint8)
        mask_HW[2:4, 2:4] = 255
        Image.fromarray(mask_HW).save(tmp_path / "polyps" / "masks" / f"{index}.png")
    options = ("--out", tmp_path / "out", "--modality", "endoscopy", "--target", "polyp")
    assert prsmed("data", "build", f"mine={tmp_path / 'polyps'}", *options) == 0
    assert len(read_manifest(tmp_path / "out").cases) == 3
    shown = " ".join(capsys.readouterr().out.split())
    assert "3 images" in shown and "1 rows refused" in shown and "resample the mask" in shown
    assert prsmed("data", "queries", tmp_path / "out") == 0
    assert prsmed("data", "stats", tmp_path / "out", "--out", tmp_path / "figures") == 0
    assert "questions on 3 images" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"statistics.json", "statistics.png"}


def test_an_unknown_modality_is_one_line(prsmed: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prsmed("data", "build", tmp_path, "--out", tmp_path / "out", "--modality", "pet") == 1
    message = capsys.readouterr().err
    assert "error: " in message and "pet" in message and "Traceback" not in message


def test_a_missing_model_is_named(prsmed: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prsmed("ask", "a.png", "Where?", "--modality", "ct", "--model", tmp_path / "none") == 1
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_a_device_that_is_not_here(prsmed: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert prsmed("ask", "a.png", "Where?", "--modality", "ct", "--device", "gpu0") == 1
    assert capsys.readouterr().err.startswith("error: --device 'gpu0': cannot be used here")
