"""Worklists: folders without names of patients, rows that fail, and going on where a killed run stopped."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import prsmed.batch
from prsmed.batch import DONE_FILE, TABLE_FILE, Result, read_worklist, run_worklist
from prsmed.data.writers.nifti import write_nifti
from prsmed.errors import RequestError
from prsmed.predictor import Predictor
from prsmed.volumes import VolumeOptions
from tests.unit.data.readers.made_dicom import save, slice_of
from tests.unit.small_networks import small_predictor

QUESTION = "Where is the lung nodule?"
OPTIONS = VolumeOptions(batch_size=4)


@pytest.fixture(scope="module")
def predictor(repository: Path) -> Predictor:
    return small_predictor(repository)


@pytest.fixture
def worklist(tmp_path: Path) -> Path:
    """A picture named relative to the worklist, a volume named absolutely, a missing file, a row without modality."""
    (tmp_path / "studies").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "studies" / "doe_jane.png")
    voxels = np.random.default_rng(0).integers(-900, 300, (20, 16, 5), dtype=np.int16)
    write_nifti(tmp_path / "ct.nii.gz", voxels, np.eye(4))
    rows = [
        ("studies/doe_jane.png", QUESTION, "x-ray", "Jane Doe"),
        (str(tmp_path / "ct.nii.gz"), QUESTION, "ct", ""),
        ("absent.png", QUESTION, "ct", ""),
        ("studies/doe_jane.png", QUESTION, "", ""),
    ]
    path = tmp_path / "worklist.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("image", "question", "modality", "id"), *rows])
    return path


def table_of(out: Path) -> list[dict[str, str]]:
    with (out / TABLE_FILE).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_every_row_is_answered_or_told(predictor: Predictor, worklist: Path, tmp_path: Path) -> None:
    steps, slices = [], []
    out = tmp_path / "out"
    results = run_worklist(
        predictor,
        worklist,
        out,
        volume=OPTIONS,
        progress=lambda *step: steps.append(step),
        slice_progress=lambda *step: slices.append(step),
    )
    assert [result.status for result in results] == ["done", "done", "failed", "failed"]
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)] and slices == [(4, 5), (5, 5)]
    table = table_of(out)
    assert list(table[0]) == list(Result.__dataclass_fields__)
    assert [bool(row["text"]) for row in table] == [True, True, False, False]
    assert [row["volume_ml"] != "" for row in table] == [False, True, False, False]
    assert "absent.png" in table[2]["error"] and "never guessed" in table[3]["error"]
    done = [out / row["folder"] for row in table if row["status"] == "done"]
    assert [sorted(path.name for path in folder.iterdir()) for folder in done] == [
        ["answer.json", "done.json", "mask.png", "overlay.png"],
        ["answer.json", "done.json", "mask.nii.gz", "mask.png", "overlay.png", "slices.png"],
    ]
    assert not [path for path in out.rglob("*") if "doe" in path.name.lower() or "jane" in path.name.lower()]
    assert "Jane" not in (out / TABLE_FILE).read_text(encoding="utf-8")


def test_a_killed_run_goes_on(
    predictor: Predictor, worklist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the second row is being written: its folder has an answer and no mark."""
    out = tmp_path / "out"
    mark = prsmed.batch.write_atomically

    def killed(path: Path, text: str) -> None:
        if path.name == DONE_FILE and path.parent.name.startswith("00002"):
            raise KeyboardInterrupt
        mark(path, text)

    with monkeypatch.context() as patched:
        patched.setattr(prsmed.batch, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            run_worklist(predictor, worklist, out, volume=OPTIONS)
    assert [row["status"] for row in table_of(out)] == ["done", "waiting", "waiting", "waiting"]
    opened = []

    class Counted(Predictor):
        def open(self, image, **options):  # type: ignore[no-untyped-def, override]
            opened.append(Path(image).name)
            return super().open(image, **options)

    again = Counted(predictor.network, predictor.text, predictor.preprocessing, predictor.info)
    run_worklist(again, worklist, out, volume=OPTIONS)
    assert opened == ["ct.nii.gz", "absent.png", "doe_jane.png"]  # what failed may have been repaired
    assert [row["status"] for row in table_of(out)] == ["done", "done", "failed", "failed"]
    opened.clear()
    run_worklist(again, worklist, out, volume=VolumeOptions(batch_size=4, axis="coronal"))
    assert len(opened) == 4  # other options, other answers


def test_what_nobody_foresaw_stops_one_row_and_quotes_nothing(
    predictor: Predictor,
    worklist: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ValueError("DOE^JANE")

    monkeypatch.setattr(predictor, "open", fails)
    results = run_worklist(predictor, worklist, tmp_path / "out", volume=OPTIONS)
    assert {result.status for result in results} == {"failed"} and "unexpected ValueError" in results[0].error
    assert "DOE" not in caplog.text and "DOE" not in (tmp_path / "out" / TABLE_FILE).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,modality\na.png,ct\n", "has no column question"),
        ("image,question\n", "holds no row"),
        ("", "has no column image, question"),
        (b"\xff\xfe\x00", "cannot be read as a CSV"),
        (None, "cannot be read as a CSV"),
    ],
)
def test_a_worklist_that_cannot_be_used(content: str | bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "worklist.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RequestError, match=message):
        read_worklist(path)


def test_a_row_without_an_image(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "worklist.csv").write_text(f"image,question\n,{QUESTION}\n", encoding="utf-8")
    result = run_worklist(predictor, tmp_path / "worklist.csv", tmp_path / "out", volume=OPTIONS)[0]
    assert (result.status, "names no image" in result.error) == ("failed", True)


def test_a_study_of_several_series_is_asked_by_the_one_named(predictor: Predictor, tmp_path: Path) -> None:
    other = "1.2.826.0.1.3680043.8.498.9"
    slices = [slice_of(index) for index in range(2)] + [slice_of(index, SeriesInstanceUID=other) for index in range(3)]
    save(tmp_path / "study", *slices)
    rows = f"image,question,series\nstudy,{QUESTION},\nstudy,{QUESTION},{other}\n"
    (tmp_path / "worklist.csv").write_text(rows, encoding="utf-8")
    first, second = run_worklist(predictor, tmp_path / "worklist.csv", tmp_path / "out", volume=OPTIONS)
    assert first.status == "failed" and "2 series" in first.error
    answer = json.loads((tmp_path / "out" / second.folder / "answer.json").read_text(encoding="utf-8"))
    assert second.status == "done" and answer["volume_statistics"]["slices"] == 3


def test_another_file_under_the_same_name_is_another_row(predictor: Predictor, tmp_path: Path) -> None:
    """Two folders with a study of one name, asked into one `out`; then one of the studies is replaced."""
    texts = []
    for place, shade in (("a", 40), ("b", 220), ("b", 90)):
        (tmp_path / place).mkdir(exist_ok=True)
        Image.fromarray(np.full((40, 50 + shade), shade, np.uint8)).save(tmp_path / place / "scan.png")
        (tmp_path / place / "worklist.csv").write_text(f"image,question,modality\nscan.png,{QUESTION},x-ray\n")
        (result,) = run_worklist(predictor, tmp_path / place / "worklist.csv", tmp_path / "out", volume=OPTIONS)
        texts.append(result.folder)
    assert len(set(texts)) == 3
