"""Volumes asked whole: the miniature network for the path, and for the geometry one that draws whatever is bright."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

import prsmed.sessions
from prsmed.answers import RawAnswers, answer_batch
from prsmed.data.preprocessing import Prepared
from prsmed.data.readers import read_mask
from prsmed.errors import DataError, RequestError
from prsmed.predictor import Predictor, stated_modality
from prsmed.types import MaskRef, SliceRef, SourceImage
from prsmed.volumes import VolumeOptions
from tests.unit.small_networks import small_predictor

QUESTION = "Where is the lung nodule?"
SENTENCE = "The lung nodule is in the top left of the image."
# Stored from the patient's left to right, back to front and head to feet; voxels of 1 x 1 x 2 mm.
AFFINE = np.array([[1.0, 0, 0, -20], [0, 1, 0, -16], [0, 0, -2, 9], [0, 0, 0, 1]])
AIR_HU, SOFT_HU = -1000, 400


@pytest.fixture(scope="module")
def predictor(repository: Path) -> Predictor:
    return small_predictor(repository)


@pytest.fixture
def bright(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Instead of the network: what is bright is drawn. Returns the (batch size, words) of every call."""
    calls = []

    def answer(network: Any, batch: Any, text: Any, *, words: bool = True, **_: Any) -> RawAnswers:
        prob = (batch["image"][:, :1] > 0.5).float()
        calls.append((len(prob), words))
        assert len(batch["input_ids"]) == len(prob)
        return RawAnswers(prob, prob.amax(dim=(1, 2, 3)) * 0.8 + 0.1, [SENTENCE] * len(prob) if words else None)

    monkeypatch.setattr(prsmed.sessions, "answer_batch", answer)
    return calls


def write_ct(path: Path, *boxes: tuple[slice, slice, slice], affine: np.ndarray = AFFINE) -> Path:
    """Air, and soft tissue in some boxes, (40, 32, 10) voxels; sform and qform codes 1 and 2 as some scanner has it."""
    voxels = np.full((40, 32, 10), AIR_HU, dtype=np.int16)
    for box in boxes:
        voxels[box] = SOFT_HU
    volume = nib.Nifti1Image(voxels, affine)
    volume.header.set_xyzt_units("mm")
    volume.header["descrip"] = b"DOE^JANE"
    volume.set_sform(affine, code=1)
    volume.set_qform(affine, code=2)
    nib.save(volume, path)
    return path


LEFT = (slice(4, 12), slice(8, 16), slice(2, 6))  # i from 0 is the patient's left, j from 0 the back
RIGHT = (slice(28, 34), slice(20, 26), slice(5, 8))
SPECK = (slice(20, 22), slice(28, 30), slice(9, 10))


def test_the_real_path(predictor: Predictor, tmp_path: Path) -> None:
    """The miniature network: the volume's masks are those of its slices, asked one by one."""
    path = tmp_path / "ct.nii"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).integers(-900, 300, (30, 20, 6), dtype=np.int16), AFFINE), path)
    session = predictor.open(path, modality="ct", volume=VolumeOptions(batch_size=4, min_volume_mm3=0))
    answer = session.ask(QUESTION)
    single = [predictor.open(path, modality="ct", position=SliceRef("axial", k)).ask(QUESTION) for k in range(6)]
    # columns run from the patient's right to left and rows from front to back, both against the stored axes
    expected = np.stack([one.objects[0].mask.T[::-1, ::-1] for one in single], axis=2)
    np.testing.assert_array_equal(answer.mask_ijk, expected)
    assert answer.key_slice is not None
    key = single[answer.key_slice.index]
    assert answer.model_text == key.model_text
    assert answer.objects[0].presence_prob == pytest.approx(key.objects[0].presence_prob, abs=1e-4)


def test_findings_in_three_dimensions(predictor: Predictor, bright: list, tmp_path: Path) -> None:
    session = predictor.open(write_ct(tmp_path / "a.nii.gz", LEFT, RIGHT, SPECK), modality="ct")
    answer = session.ask(QUESTION)
    statistics = answer.volume_statistics
    assert [finding["voxels"] for finding in statistics["findings"]] == pytest.approx([256, 108], rel=0.2)
    first, second = statistics["findings"]
    assert (first["patient_side"], first["ap"], second["patient_side"], second["ap"]) == (
        *("left", "posterior"),
        *("right", "anterior"),
    )
    assert (first["slice_range"], second["slice_range"]) == ((2, 5), (5, 7))
    assert first["centroid_ras_mm"] == pytest.approx([-20 + 7.5, -16 + 11.5, 9 - 2 * 3.5], abs=0.3)
    assert statistics["cleaning"]["components_removed"] == 1 and not answer.mask_ijk[SPECK].any()  # 8 mm3
    assert answer.key_slice == SliceRef("axial", first["key_slice"]) and 2 <= first["key_slice"] <= 5
    thing = answer.objects[0]
    assert thing.present and thing.mask.shape == (32, 40) and thing.findings[0].patient_side == "left"
    # what lies on the patient's left is on the picture's right
    assert thing.findings[0].zone == "bottom-right" and "the patient's left" in answer.text
    assert answer.text_source == "rule" and answer.model_text == SENTENCE
    assert any("the mask lies at bottom-right" in line for line in answer.contradictions)


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_every_axis_finds_the_same(axis: str, predictor: Predictor, bright: list, tmp_path: Path) -> None:
    session = predictor.open(
        write_ct(tmp_path / "a.nii.gz", LEFT), modality="ct", volume=VolumeOptions(axis=axis, batch_size=5)
    )
    answer = session.ask(QUESTION)
    drawn = np.zeros_like(answer.mask_ijk)
    drawn[LEFT] = True
    assert 2 * (drawn & answer.mask_ijk).sum() / (drawn.sum() + answer.mask_ijk.sum()) > 0.85
    assert answer.key_slice.axis == axis


def test_never_more_than_a_batch_of_slices_at_a_time(
    predictor: Predictor, bright: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Canonical slices are counted while they live: asked for one by one, at most a batch is held."""
    alive: list[int] = []
    taken, steps = [0], []
    take = Prepared.slice

    def counted(self: Prepared, position: SliceRef | None = None) -> Any:
        taken[0] += 1
        alive.append(taken[0])
        assert len(alive) <= 4
        return take(self, position)

    def forget(done: int, total: int) -> None:
        steps.append((done, total))
        alive.clear()

    monkeypatch.setattr(Prepared, "slice", counted)
    session = predictor.open(write_ct(tmp_path / "a.nii.gz", LEFT), modality="ct", volume=VolumeOptions(batch_size=4))
    session.ask(QUESTION, progress=forget)
    assert steps == [(4, 10), (8, 10), (10, 10)]
    assert bright == [(4, False), (4, False), (2, False), (1, True)]  # words for the key slice only


def test_nothing_in_the_volume(predictor: Predictor, bright: list, tmp_path: Path) -> None:
    session = predictor.open(write_ct(tmp_path / "a.nii.gz"), modality="ct")
    answer = session.ask(QUESTION)
    assert not answer.mask_ijk.any() and not answer.objects[0].present and answer.objects[0].findings == []
    assert answer.text == "No lung nodule is visible in this image." and answer.text_source == "rule"
    assert answer.volume_statistics["findings"] == []
    assert answer.key_slice == SliceRef("axial", 0)  # all alike
    session.write(tmp_path / "out", answer)
    assert not np.asanyarray(nib.load(tmp_path / "out" / "mask.nii.gz").dataobj).any()


def test_what_was_drawn_and_removed_is_said(predictor: Predictor, bright: list, tmp_path: Path) -> None:
    session = predictor.open(
        write_ct(tmp_path / "a.nii.gz", SPECK), modality="ct", volume=VolumeOptions(min_volume_mm3=500)
    )
    answer = session.ask(QUESTION)
    assert not answer.objects[0].present and not answer.mask_ijk.any()
    assert "visible in 1 of 10 slices, but no component of 500 mm3 or more was drawn" in answer.contradictions[0]
    assert answer.key_slice == SliceRef("axial", 9)  # where presence is highest


@pytest.mark.parametrize(("side", "box"), [("left", LEFT), ("right", RIGHT)])
def test_a_question_about_one_side_of_the_patient(
    side: str, box: tuple, predictor: Predictor, bright: list, tmp_path: Path
) -> None:
    session = predictor.open(write_ct(tmp_path / "a.nii.gz", LEFT, RIGHT), modality="ct")
    answer = session.ask(f"Is there a lung nodule in the {side} lung?")
    assert [finding["patient_side"] for finding in answer.volume_statistics["findings"]] == [side]
    inside = np.zeros_like(answer.mask_ijk)
    inside[tuple(slice(part.start - 2, part.stop + 2) for part in box)] = True
    assert answer.mask_ijk.any() and not (answer.mask_ijk & ~inside).any()
    assert f"the patient's {side}" in answer.text
    assert any(f"only the patient's {side} side" in line for line in answer.warnings)


def test_the_largest_are_those_of_the_side_asked_about(predictor: Predictor, bright: list, tmp_path: Path) -> None:
    larger = tuple(slice(part.start, part.stop + 2) for part in LEFT)
    options = VolumeOptions(keep_largest=1)
    session = predictor.open(write_ct(tmp_path / "a.nii.gz", larger, RIGHT), modality="ct", volume=options)
    for question, side in ((QUESTION, "left"), ("Is there a lung nodule in the right lung?", "right")):
        statistics = session.ask(question).volume_statistics
        assert [finding["patient_side"] for finding in statistics["findings"]] == [side]
        assert statistics["cleaning"]["components_removed"] == (1 if side == "left" else 0)


def test_nothing_on_the_side_asked_about(predictor: Predictor, bright: list, tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.nii.gz", LEFT)
    for position in (None, SliceRef("axial", 3)):
        answer = predictor.open(path, modality="ct", position=position).ask("Any lung nodule in the right lung?")
        assert answer.text == (
            "No lung nodule is visible on the patient's right. Something was marked on the other side."
        )
        assert not answer.objects[0].present
        assert "drawn on the other side, and left out: 1" in answer.warnings


def test_the_side_of_one_slice(predictor: Predictor, bright: list, tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.nii.gz", LEFT, RIGHT)
    session = predictor.open(path, modality="ct", position=SliceRef("axial", 5))
    assert len(session.ask(QUESTION).objects[0].findings) == 2
    answer = session.ask("Where is the nodule in the patient's right lung?")
    assert [finding.patient_side for finding in answer.objects[0].findings] == ["right"]
    assert answer.objects[0].mask.sum() == pytest.approx(36, rel=0.35)


def test_a_picture_without_orientation_has_no_side(predictor: Predictor, bright: list, tmp_path: Path) -> None:
    pixels = np.zeros((40, 50, 3), dtype=np.uint8)
    pixels[10:20, 5:20] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    answer = predictor.open(tmp_path / "a.png", modality="x-ray").ask("Is there a lung nodule in the right lung?")
    assert answer.objects[0].mask.any() and any("cannot be answered" in line for line in answer.warnings)
    assert "Patient side unknown" in answer.text


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_the_mask_has_the_header_of_its_image(suffix: str, predictor: Predictor, bright: list, tmp_path: Path) -> None:
    path = write_ct(tmp_path / f"a{suffix}", LEFT)
    session = predictor.open(path, modality="ct")
    answer = session.ask(QUESTION)
    session.write(tmp_path / "out", answer)
    source, mask = nib.load(path), nib.load(tmp_path / "out" / "mask.nii.gz")
    np.testing.assert_array_equal(mask.get_sform(), source.get_sform())
    np.testing.assert_array_equal(mask.get_qform(), source.get_qform())
    for name in ("sform_code", "qform_code", "pixdim", "xyzt_units", "dim"):
        np.testing.assert_array_equal(mask.header[name], source.header[name])
    assert mask.get_data_dtype() == np.uint8 and b"DOE" not in mask.header.binaryblock
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj).astype(bool), answer.mask_ijk)
    read = read_mask(tmp_path / "out" / "mask.nii.gz", MaskRef("nifti", "mask.nii.gz", 1), session.source)
    np.testing.assert_array_equal(read, answer.mask_ijk)
    record = json.loads((tmp_path / "out" / "answer.json").read_text(encoding="utf-8"))
    assert record["files"] == {
        "mask": "mask.png",
        "overlay": "overlay.png",
        "volume_mask": "mask.nii.gz",
        "slices": "slices.png",
    }
    assert "mask_ijk" not in record and record["volume_statistics"]["summary"].startswith("In the volume: 1 finding")
    assert all((tmp_path / "out" / name).is_file() for name in record["files"].values())


def test_an_uncompressed_volume_is_mapped_not_loaded(predictor: Predictor, tmp_path: Path) -> None:
    session = predictor.open(write_ct(tmp_path / "a.nii"), modality="ct")
    assert isinstance(session.source.array, np.memmap)


def test_dicom_results_need_dicom(predictor: Predictor, bright: list, tmp_path: Path) -> None:
    for position in (None, SliceRef("axial", 3)):
        session = predictor.open(write_ct(tmp_path / "a.nii.gz", LEFT), modality="ct", position=position)
        answer = session.ask(QUESTION)
        with pytest.raises(RequestError, match=r"is not DICOM.*leave --dicom away"):
            session.write(tmp_path / "out", answer, dicom=True)
        assert not (tmp_path / "out").exists()


def test_nothing_of_an_earlier_answer_stays(predictor: Predictor, bright: list, tmp_path: Path) -> None:
    path, out = write_ct(tmp_path / "a.nii.gz", LEFT), tmp_path / "out"
    out.mkdir()
    (out / "slices.dcm").write_text("somebody else's")
    for position, files in ((None, {"mask.nii.gz", "slices.png"}), (SliceRef("axial", 3), set())):
        session = predictor.open(path, modality="ct", position=position)
        session.write(out, session.ask(QUESTION))
        assert {file.name for file in out.iterdir()} - files == {"answer.json", "mask.png", "overlay.png", "slices.dcm"}


def test_a_folder_that_cannot_be_written(predictor: Predictor, bright: list, tmp_path: Path) -> None:
    session = predictor.open(write_ct(tmp_path / "a.nii.gz", LEFT), modality="ct")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="choose another output folder"):
        session.write(tmp_path / "file", session.ask(QUESTION))


@pytest.mark.parametrize(
    ("code", "option", "name", "said_by", "warned"),
    [
        (None, "ct", "ct", "stated by the caller", False),
        ("CT", None, "ct", "stated by the file (DICOM modality CT)", False),
        ("MR", None, "mri", "stated by the file (DICOM modality MR)", False),
        ("CT", "ct", "ct", "stated by the caller", False),
        ("CT", "mri", "mri", "stated by the caller", True),
        ("PT", "ct", "ct", "stated by the caller", True),
    ],
)
def test_who_says_the_modality(code: str | None, option: str | None, name: str, said_by: str, warned: bool) -> None:
    said = stated_modality(SourceImage(np.zeros((4, 4, 1)), path="a", dicom_modality=code), option)
    assert (said.name, said.source, bool(said.warnings)) == (name, said_by, warned)


@pytest.mark.parametrize(
    ("code", "message"), [("PT", "a: DICOM modality PT is none of ct, mri.*; ask another"), (None, "never guessed")]
)
def test_a_modality_that_nobody_says(code: str | None, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        stated_modality(SourceImage(np.zeros((4, 4, 1)), path="a", dicom_modality=code), None)


def test_what_an_answer_warns_of(repository: Path, bright: list, tmp_path: Path) -> None:
    predictor = small_predictor(repository, modalities=["mri"], datasets=["phantom_mri", "phantom_mri_volume"])
    session = predictor.open(write_ct(tmp_path / "a.nii.gz", LEFT), modality="ct")
    session.source.notes = ("one slice is missing",)
    warnings = session.ask(QUESTION).warnings
    assert warnings[0] == "one slice is missing"
    assert "not trained on ct images" in warnings[1] and "phantoms only" in warnings[2]


def test_words_are_left_out_where_none_are_asked_for(predictor: Predictor, tmp_path: Path) -> None:
    session = predictor.open(write_ct(tmp_path / "a.nii.gz", LEFT), modality="ct", position=SliceRef("axial", 3))
    batch = {
        **predictor.questions(QUESTION, 1),
        "image": session.canonical[None],
        "geometry": [session.geometry],
    }
    silent: RawAnswers = answer_batch(predictor.network, batch, predictor.text, words=False)
    spoken: RawAnswers = answer_batch(predictor.network, batch, predictor.text)
    assert silent.texts is None and spoken.texts is not None
    torch.testing.assert_close(silent.mask_prob, spoken.mask_prob)
