"""From a folder to batches: words follow pixels, and randomness depends on (seed, epoch, index) alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from bundle.data import AskDataset, build_loader, checked_request, open_dataset, read_requests
from prsmed.answers import described_zones
from prsmed.data.manifest import Manifest
from prsmed.data.preprocessing import Preprocessing
from prsmed.errors import DataError, RequestError
from prsmed.models.presets import build_text
from prsmed.samples import collate, findings_of, items_of
from prsmed.text.parse import parse_position, zones_match
from prsmed.text.templates import TemplateBank
from prsmed.types import MODALITIES, SliceRef
from prsmed.windows import label_window

TEXT = build_text("prs_med", "tiny")
SMALL = {"pictures": 6, "volumes": 0, "seed": 0}


@pytest.fixture
def dataset(
    phantom_manifest: Manifest, train_config: dict[str, Any], preprocessing: Preprocessing
) -> Callable[..., AskDataset]:
    """Makes the training dataset of configs/train.json on the phantoms."""
    parser = ConfigParser({"augmentation": train_config["augmentation"]})

    def make(**changes: Any) -> AskDataset:
        settings = {
            "data": items_of(phantom_manifest, "train", slices=train_config["slices"]),
            "manifest": phantom_manifest,
            "preprocessing": preprocessing,
            "text": TEXT,
            "bank": TemplateBank.load(),
            "zone_rule": train_config["zone_rule"],
            "split": "train",
            "answers": True,
            "augmentation": parser.get_parsed_content("augmentation"),
        }
        return AskDataset(**{**settings, **changes})

    return make


def test_words_and_pixels_never_disagree(dataset: Callable[..., AskDataset]) -> None:
    """Whatever augmentation did to the label, the sentence states the zones of the label as it is."""
    asked = dataset()
    moved = 0
    for epoch in range(12):
        asked.set_epoch(epoch)
        for index in range(len(asked)):
            sample = asked[index]
            mask_HW = sample["label"][0].numpy() > 0.5
            findings = findings_of(mask_HW, sample["kind"], zone_rule="posmed")
            said = parse_position(sample["answer"], target=sample["target"])
            assert said.kind == ("positions" if findings else "none"), sample["answer"]
            assert zones_match(said, described_zones(findings)), sample["answer"]
            moved += not torch.equal(sample["label"], asked.loaded[index]["label"])
    assert moved > 6 * len(asked)  # it was augmented


def test_some_questions_ask_for_what_such_a_picture_cannot_show(dataset: Callable[..., AskDataset]) -> None:
    asked = dataset(augmentation=None, foreign_share=0.5)
    asked.foreign = {modality: [("endoscopy", "polyp")] for modality in MODALITIES}
    samples = [asked[index] for index in range(len(asked))]
    foreign = [sample for sample in samples if sample.get("foreign")]
    assert 0 < len(foreign) < len(samples)
    for sample in foreign:
        assert sample["target"] == "polyp" and not sample["label"].any()
        assert parse_position(sample["answer"], target="polyp").kind == "none"
    assert all(sample["named_modality"] in ("endoscopy", sample["modality"]) for sample in foreign)


def test_some_questions_are_put_about_a_picture_that_shows_nothing(dataset: Callable[..., AskDataset]) -> None:
    asked = dataset(augmentation=None, empty_share=0.5, windows={"share": 1.0, "min_side": 0.6})
    samples = [asked[index] for index in range(len(asked))]
    empty = [sample for sample in samples if not torch.equal(sample["image"], asked.loaded[sample["index"]]["image"])]
    assert 0 < len(empty) < len(samples)
    for sample in empty:
        assert not sample["label"].any() and sample["state"] == "none" and "window_xyxy_norm" not in sample
        assert sample["image"].shape[1:] == sample["label"].shape[1:] == sample["geometry"].canonical_hw_px
        assert parse_position(sample["answer"], target=sample["target"]).kind == "none"
    assert collate(samples, pad_id=TEXT.pad_id)["present"].sum() <= len(samples) - len(empty)


def test_windows_move_label_and_words_and_say_which_part_the_network_must_look_at(
    dataset: Callable[..., AskDataset],
) -> None:
    asked = dataset(augmentation=None, windows={"share": 0.5, "min_side": 0.6})
    samples = [asked[index] for index in range(len(asked))]
    through = [sample for sample in samples if "window_xyxy_norm" in sample]
    assert 0 < len(through) < len(samples)
    for sample in through:
        whole = asked.loaded[sample["index"]]["label"]
        assert torch.equal(sample["label"], label_window(whole, sample["window_xyxy_norm"]))
        findings = findings_of(sample["label"][0].numpy() > 0.5, sample["kind"], zone_rule="posmed")
        assert zones_match(parse_position(sample["answer"], target=sample["target"]), described_zones(findings))
    batch = collate(samples, pad_id=TEXT.pad_id)
    assert batch["windows_xyxy_norm"].shape == (len(samples), 4)
    unmoved = next(index for index, sample in enumerate(samples) if "window_xyxy_norm" not in sample)
    assert batch["windows_xyxy_norm"][unmoved].tolist() == [0, 0, 1, 1]


def test_the_cached_image_is_not_touched(dataset: Callable[..., AskDataset]) -> None:
    asked = dataset()
    before = [
        (asked.loaded[index]["image"].clone(), asked.loaded[index]["label"].clone()) for index in range(len(asked))
    ]
    for epoch in range(3):
        asked.set_epoch(epoch)
        samples = [asked[index] for index in range(len(asked))]
    assert samples[0]["image"].dtype == torch.float32
    for index, (image, label) in enumerate(before):
        assert torch.equal(asked.loaded[index]["image"], image) and torch.equal(asked.loaded[index]["label"], label)


def test_a_sample_depends_on_seed_epoch_and_index_alone(dataset: Callable[..., AskDataset]) -> None:
    one, two, other = dataset(seed=5), dataset(seed=5, cache_rate=0.0), dataset(seed=6)
    for asked in (one, two, other):
        asked.set_epoch(2)
    two[4], two[1]  # what was asked before must not matter
    for index in (3, 0):
        first, second = one[index], two[index]
        assert torch.equal(first["image"], second["image"]) and torch.equal(first["label"], second["label"])
        assert (first["question"], first["answer"]) == (second["question"], second["answer"])
    texts = [[asked[index]["question"] for index in range(len(asked))] for asked in (one, other)]
    assert texts[0] != texts[1]
    one.set_epoch(3)
    assert [one[index]["question"] for index in range(len(one))] != texts[0]
    assert not torch.equal(one[0]["image"], two[0]["image"])


def test_workers_change_nothing(dataset: Callable[..., AskDataset]) -> None:
    def epoch(num_workers: int) -> list[dict]:
        asked = dataset(seed=1)
        loader = build_loader(asked, batch_size=6, pad_id=TEXT.pad_id, shuffle=True, seed=1, num_workers=num_workers)
        asked.set_epoch(7)
        loader.sampler.set_epoch(7)
        return list(loader)

    alone, helped = epoch(0), epoch(2)
    assert len(alone) == len(helped) == 4
    for first, second in zip(alone, helped, strict=True):
        assert first["key"] == second["key"] and first["answer"] == second["answer"]
        for name in ("image", "label", "input_ids", "target_ids", "prompt_mask"):
            assert torch.equal(first[name], second[name])


def test_a_loader_leaves_the_global_random_state_alone(dataset: Callable[..., AskDataset]) -> None:
    loader = build_loader(dataset(), batch_size=6, pad_id=TEXT.pad_id, shuffle=True)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    next(iter(loader))
    assert torch.equal(torch.rand(1), expected)


def test_without_answers_the_sequence_ends_with_the_question(dataset: Callable[..., AskDataset]) -> None:
    sample = dataset(answers=False, split="test", augmentation=None)[0]
    assert sample["encoded"].prompt_mask.all() and sample["answer"]


def test_phantoms_are_made_where_they_are_expected(tmp_path: Path) -> None:
    phantoms = tmp_path / "phantoms"
    made = open_dataset(str(phantoms), phantoms_dir=str(phantoms), phantoms=SMALL)
    assert len(made.cases) == 6
    assert open_dataset(str(phantoms), phantoms_dir=str(phantoms), phantoms=SMALL).fingerprint() == made.fingerprint()


def test_a_typing_error_does_not_end_in_phantoms(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="prsmed data build"):
        open_dataset(str(tmp_path / "mine"), phantoms_dir=str(tmp_path / "phantoms"), phantoms=SMALL)
    assert not list(tmp_path.iterdir())


REQUEST = {"image": "a.png", "question": "Is it #2, 50 % $x @y?", "modality": "ct"}


@pytest.mark.parametrize(
    "content",
    [json.dumps([REQUEST, REQUEST]), f"{json.dumps(REQUEST)}\n\n{json.dumps(REQUEST)}\n"],
    ids=["list", "lines"],
)
def test_requests_are_read(content: str, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text(content, encoding="utf-8")
    requests = read_requests(tmp_path / "request.json", tmp_path / "images")
    assert requests == [{"request": REQUEST, "image_dir": tmp_path / "images"}] * 2


@pytest.mark.parametrize("content", [None, "", "[]", "{", "[1,", b"\xff\xfe"])
def test_a_request_file_that_cannot_be_used(content: str | bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RequestError, match=r"request\.json.*docs/asking\.md"):
        read_requests(path, tmp_path)


def test_a_request_is_completed() -> None:
    entry = {"image": "a.nii.gz", "question": "Where?", "slice": {"axis": "axial", "index": 12}}
    assert checked_request(entry) == {
        "image": "a.nii.gz",
        "question": "Where?",
        "modality": None,
        "series": None,
        "frame": None,
        "position": SliceRef("axial", 12),
    }


@pytest.mark.parametrize(
    "entry",
    [
        "Where?",
        {},
        {"image": "a.png"},
        {"image": 3, "question": "Where?"},
        {**REQUEST, "question": ["Where?"]},
        {**REQUEST, "slice": "axial:3"},
        {**REQUEST, "slice": {"axis": "axial"}},
        {**REQUEST, "slice": {"axis": ["axial"], "index": 1}},
        {**REQUEST, "slice": {"axis": "oblique", "index": 1}},
        {**REQUEST, "slice": {"axis": "axial", "index": "1"}},
        {**REQUEST, "frame": "2"},
    ],
)
def test_a_bad_request_is_refused(entry: Any) -> None:
    with pytest.raises(RequestError, match="expected"):
        checked_request(entry)


def test_an_evaluation_of_nothing_is_an_empty_loader() -> None:
    """Where every answer is stored, the same command has nothing left to ask."""
    assert len(build_loader([], batch_size=2, pad_id=TEXT.pad_id, shuffle=False)) == 0
