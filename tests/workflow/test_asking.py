"""`prsmed ask`: what it writes, and what it says where it cannot answer."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from prsmed.types import NOT_A_MEDICAL_DEVICE
from tests.unit.data.readers.made_dicom import picture, save
from tests.workflow.conftest import Trained

Command = Callable[..., int]


def write_png(path: Path, width: int = 150, height: int = 90) -> Path:
    pixels_HWC = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels_HWC).save(path)
    return path


def volume_of(trained: Trained) -> Path:
    return sorted((trained.dataset_dir / "volumes").glob("mri_*[0-9].nii.gz"))[0]


@pytest.mark.parametrize(("width", "height"), [(150, 90), (61, 300), (128, 128), (1, 7)])
def test_the_mask_has_the_image_s_own_size(
    width: int, height: int, trained: Trained, tmp_path: Path, prsmed: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    image = write_png(tmp_path / "a.png", width, height)
    options = ("--modality", "ultrasound", "--model", trained.model, "--out", tmp_path / "out")
    assert prsmed("ask", image, "Where is the breast lesion?", *options) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"answer.json", "mask.png", "overlay.png"}
    with Image.open(tmp_path / "out" / "mask.png") as mask:
        assert mask.size == (width, height)
        assert set(np.unique(np.asarray(mask))) <= {0, 255}
        area = int(np.count_nonzero(np.asarray(mask)))
    answer = json.loads((tmp_path / "out" / "answer.json").read_text(encoding="utf-8"))
    assert answer["objects"][0]["area_px"] == area
    assert answer["text"] == (answer["model_text"] if answer["text_source"] == "model" else answer["rule_text"])
    assert (answer["modality"], answer["schema_version"]) == ("ultrasound", 1)
    shown = capsys.readouterr()
    assert shown.out.strip() == answer["text"].strip() and NOT_A_MEDICAL_DEVICE in shown.err


def test_the_record_can_be_printed(
    trained: Trained, tmp_path: Path, prsmed: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    image = write_png(tmp_path / "a.png")
    options = ("--modality", "ct", "--model", trained.model, "--out", tmp_path / "out", "--json")
    assert prsmed("ask", image, "病变在哪里?", *options) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["question"] == "病变在哪里?"
    assert "names none of the targets" in printed["warnings"][0]


def test_a_slice_of_a_volume(trained: Trained, tmp_path: Path, prsmed: Command) -> None:
    volume = volume_of(trained)
    options = ("--modality", "mri", "--model", trained.model, "--out", tmp_path / "out")
    assert prsmed("ask", volume, "Where is the brain tumour?", "--slice", "axial:2", *options) == 0
    answer = json.loads((tmp_path / "out" / "answer.json").read_text(encoding="utf-8"))
    assert answer["key_slice"] == {"axis": "axial", "index": 2}
    header = nibabel.load(volume)
    in_plane = [i for i, code in enumerate(nibabel.aff2axcodes(header.affine)) if code not in "SI"]
    with Image.open(tmp_path / "out" / "mask.png") as mask:
        assert sorted(mask.size) == sorted(header.shape[i] for i in in_plane)


def test_a_whole_volume(trained: Trained, tmp_path: Path, prsmed: Command, capsys: pytest.CaptureFixture[str]) -> None:
    volume = volume_of(trained)
    options = ("--modality", "mri", "--model", trained.model, "--out", tmp_path / "out", "--min-volume", 0)
    assert prsmed("ask", volume, "Where is the brain tumour?", *options) == 0
    answer = json.loads((tmp_path / "out" / "answer.json").read_text(encoding="utf-8"))
    source, mask = nibabel.load(volume), nibabel.load(tmp_path / "out" / "mask.nii.gz")
    assert mask.shape == source.shape
    np.testing.assert_array_equal(mask.affine, source.affine)
    found = answer["volume_statistics"]["findings"]
    assert sum(finding["voxels"] for finding in found) == np.count_nonzero(np.asanyarray(mask.dataobj))
    assert answer["key_slice"]["axis"] == "axial" and answer["objects"][0]["present"] == bool(found)
    shown = capsys.readouterr().out.splitlines()
    assert shown == [answer["text"], answer["volume_statistics"]["summary"]]


def test_a_worklist(trained: Trained, tmp_path: Path, prsmed: Command, capsys: pytest.CaptureFixture[str]) -> None:
    write_png(tmp_path / "a.png")
    rows = [("image", "question", "modality"), ("a.png", "Where is the polyp?", "endoscopy"), ("b.png", "Where?", "ct")]
    with (tmp_path / "worklist.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    words = ("batch", tmp_path / "worklist.csv", "--model", trained.model, "--out", tmp_path / "out")
    assert prsmed(*words) == 0
    assert "1 answered, 1 not" in capsys.readouterr().out
    answered = next((tmp_path / "out").glob("00001-*/answer.json"))
    before = answered.stat().st_mtime_ns
    assert prsmed(*words) == 0
    assert answered.stat().st_mtime_ns == before
    with (tmp_path / "out" / "results.csv").open(encoding="utf-8", newline="") as stream:
        assert [row["status"] for row in csv.DictReader(stream)] == ["done", "failed"]


def test_a_worklist_of_failures(
    trained: Trained, tmp_path: Path, prsmed: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "worklist.csv").write_text("image,question\nb.png,Where?\n", encoding="utf-8")
    assert prsmed("batch", tmp_path / "worklist.csv", "--model", trained.model, "--out", tmp_path / "out") == 1
    assert "none of 1 studies" in capsys.readouterr().err


def test_a_folder_of_images(
    trained: Trained, tmp_path: Path, prsmed: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    (images / "more").mkdir(parents=True)
    write_png(images / "a.png")
    (images / "b.png").write_bytes(b"")
    shutil.copy(volume_of(trained), images / "c.nii.gz")
    write_png(images / "more" / "d.png", 40, 50)
    (images / "notes.txt").write_text("not an image")
    save(images / "more", picture(np.full((30, 40), 90, np.uint8), Modality="ES"), names=["IM0001"])
    options = ("--modality", "endoscopy", "--model", trained.model, "--out", tmp_path / "out")
    assert prsmed("ask", images, "Where is the polyp?", *options) == 0
    with (tmp_path / "out" / "answers.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["image"] for row in rows] == ["a.png", "b.png", "c.nii.gz", "more/IM0001", "more/d.png"]
    assert [bool(row["error"]) for row in rows] == [False, True, True, False, False]
    assert [bool(row["text"]) for row in rows] == [True, False, False, True, True]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0001", "0004", "0005", "answers.csv"]
    assert "3 answered, 2 not" in capsys.readouterr().out
    (images / "a.png").write_bytes(b"")
    assert prsmed("ask", images, "Where is the polyp?", *options) == 0
    assert not list((tmp_path / "out" / "0001").iterdir())  # not the answer about what a.png was before
    (tmp_path / "out" / "answers.csv").unlink()
    (tmp_path / "out" / "answers.csv").mkdir()
    assert prsmed("ask", images, "Where is the polyp?", *options) == 1
    assert "answers.csv: cannot be written" in capsys.readouterr().err


@dataclass
class Bad:
    """One thing that cannot be answered: how it is made, and what the message must name."""

    says: tuple[str, ...]
    image: Callable[[Path], Path] = write_png
    question: str = "Where is the polyp?"
    options: dict[str, str | None] = field(default_factory=dict)
    name: str = "a.png"


def truncated(path: Path) -> Path:
    content = write_png(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def foreign(path: Path) -> Path:
    path.write_text("of no format that anybody knows")
    return path


def with_nan(path: Path) -> Path:
    pixels = np.full((40, 50), 0.5, dtype=np.float32)
    pixels[3, 4] = np.nan
    Image.fromarray(pixels).save(path)
    return path


def volume(path: Path) -> Path:
    nibabel.save(nibabel.Nifti1Image(np.ones((8, 9, 10), dtype=np.float32), np.diag([1.0, 1.0, 2.0, 1.0])), path)
    return path


def nothing(path: Path) -> Path:
    return path


def folder_of_bad_images(path: Path) -> Path:
    path.mkdir()
    empty(path / "x.png")
    return path


BAD = {
    "missing file": Bad(("a.png",), nothing),
    "truncated PNG": Bad(("a.png",), truncated),
    "zero-byte file": Bad(("a.png", "empty"), empty),
    "NaN in a float TIFF": Bad(("a.tiff", "NaN"), with_nan, name="a.tiff"),
    "unknown format": Bad(("a.xyz", "convert it"), foreign, name="a.xyz"),
    "modality absent": Bad(("a.png", "give one of ct, mri"), options={"--modality": None}),
    "unknown modality": Bad(("'pet'", "give one of ct, mri"), options={"--modality": "pet"}),
    "empty question": Bad(("the question is empty",), question=""),
    "blank question": Bad(("the question is empty",), question=" \t "),
    "question of 20,000 characters": Bad(("20000 characters", "shorten it"), question="a" * 20_000),
    "missing checkpoint": Bad(("no_such_model", "folder that training wrote"), options={"--model": "no_such_model"}),
    "foreign folder as checkpoint": Bad(("model.json",), options={"--model": "{tmp}"}),
    "corrupt checkpoint": Bad(("sha256 differs", "model-"), options={"--model": "{damaged}"}),
    "read-only output folder": Bad(("regular/out", "choose another"), options={"--out": "{tmp}/regular/out"}),
    "DICOM results of a NIfTI volume": Bad(("leave --dicom away",), volume, options={"--dicom": ""}, name="a.nii.gz"),
    "unknown axis": Bad(("axis 'oblique'", "choose one of"), volume, options={"--axis": "oblique"}, name="a.nii.gz"),
    "slice out of range": Bad(("a.nii.gz", "0 to 9"), volume, options={"--slice": "axial:10"}, name="a.nii.gz"),
    "unreadable slice": Bad(("AXIS:INDEX",), volume, options={"--slice": "axial:-1"}, name="a.nii.gz"),
    "unknown device": Bad(("--device 'gpu0'", "use cpu"), options={"--device": "gpu0"}),
    "folder without images": Bad(("a.png", "holds no image"), lambda path: path.mkdir() or path),
    "folder of bad images": Bad(("none of 1", "x.png"), folder_of_bad_images),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_what_cannot_be_answered_is_one_clear_line(
    case: Bad, trained: Trained, tmp_path: Path, prsmed: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    image = case.image(tmp_path / case.name)
    (tmp_path / "regular").write_text("a file where a folder should be")
    damaged = tmp_path / "damaged"
    if case.options.get("--model") == "{damaged}":
        shutil.copytree(trained.model, damaged)
        weights = next(damaged.glob("*.safetensors"))
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    options = {"--modality": "endoscopy", "--model": trained.model, "--out": "{tmp}/out", **case.options}
    words = [(key, value.format(tmp=tmp_path, damaged=damaged)) for key, value in options.items() if value is not None]
    before = set(tmp_path.rglob("*"))
    assert prsmed("ask", image, case.question, *(word for pair in words for word in pair if word)) == 1
    message = capsys.readouterr().err
    lines = [line for line in message.splitlines() if not line.startswith("asking")]
    assert len([line for line in lines if line.strip()]) == 1 and lines[-1].startswith("error: ")
    assert not [word for word in case.says if word not in message]
    assert "Traceback" not in message
    assert set(tmp_path.rglob("*")) == before  # nothing half-written
