"""Asking, with a random miniature network in a model folder: the record, the refusals, and one path for all."""

import json
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from prsmed.answers import answer_batch, contradictions_of, decide, described_zones, side_contradictions, soft_mask
from prsmed.data.writers.answer import write_answer
from prsmed.data.writers.nifti import write_nifti
from prsmed.errors import CheckpointError, DataError, RequestError
from prsmed.geometry import Geometry
from prsmed.models.checkpoints import save_model
from prsmed.models.presets import PRESETS
from prsmed.predictor import Predictor
from prsmed.samples import collate
from prsmed.text.findings import find
from prsmed.text.templates import TemplateBank
from prsmed.types import AnswerObject, SliceRef
from tests.unit.data.readers.made_dicom import picture as dicom_picture
from tests.unit.data.readers.made_dicom import save
from tests.unit.small_networks import ROW, TOKENIZER, small_network, small_text

THRESHOLDS = {"mask": 0.5, "presence": 0.5}


@pytest.fixture(scope="module")
def model(tmp_path_factory, repository):
    folder = tmp_path_factory.mktemp("model")
    config = json.loads((repository / "configs/train.json").read_text(encoding="utf-8"))
    info = {
        "task": "prs_med",
        "preset": "miniature",
        "name": "random",
        "version": "0.0",
        "licence": "Apache-2.0",
        "preprocessing": config["preprocessing_steps"],
        "zone_rule": "posmed",
        "thresholds": {"mask": 0.5, "presence": 0.0},
        "targets": {"polyp": "lesion", "lungs": "organ", "lung nodule": "lesion", "lung": "organ"},
        "modalities": ["ct", "endoscopy"],
        "targets_by_modality": {"ct": ["lung", "lung nodule", "lungs"], "endoscopy": ["polyp"]},
    }
    network = small_network(len(small_text().tokenizer)).eval()
    save_model(folder, network, info, tokenizer_file=TOKENIZER)
    return folder


@pytest.fixture(scope="module")
def predictor(model):
    with patch.dict(PRESETS, {("prs_med", "miniature"): ROW}):
        return Predictor.load(model)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "polyp.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def session(predictor, picture):
    return predictor.open(picture, modality="endoscopy")


@pytest.fixture(scope="module")
def answer(session):
    return session.ask("Where is the polyp?")


def test_the_answers_record(answer, model):
    record = json.loads(json.dumps(answer.to_json()))
    assert set(record) == {
        *("schema_version", "question", "model_text", "rule_text", "text", "text_source", "objects", "contradictions"),
        *("modality", "modality_source", "timings_s", "model", "key_slice", "volume_statistics", "warnings", "notice"),
    }
    assert record["schema_version"] == 1 and record["question"] == "Where is the polyp?"
    assert record["modality"] == "endoscopy" and record["key_slice"] is None
    assert set(record["objects"][0]) == {
        *("present", "presence_prob", "box_xyxy_px", "detected_box_xyxy_px", "area_px", "findings")
    }
    assert record["objects"][0]["detected_box_xyxy_px"] is None  # PRS-Med has no box decoder
    weights = json.loads((model / "model.json").read_text())["weights"]["sha256"]
    expected = {"name": "random", "version": "0.0", "weights_sha256": weights, "licence": "Apache-2.0"}
    assert record["model"] == expected
    assert set(record["timings_s"]) == {"encode", "prefill", "mask", "text"}


def test_the_text_that_is_shown_names_its_source(answer):
    source = {"model": answer.model_text, "rule": answer.rule_text}
    assert answer.text == source[answer.text_source]
    assert (answer.text_source == "rule") == bool(answer.contradictions)


def test_masks_are_on_the_pictures_own_grid(answer, session):
    assert answer.objects[0].mask.shape == (60, 90) and answer.objects[0].mask.dtype == bool
    assert session.picture.shape == (60, 90, 3) and session.picture.dtype == np.uint8


def test_an_answer_on_disk(answer, session, tmp_path):
    write_answer(tmp_path / "new", answer, session.picture)
    record = json.loads((tmp_path / "new/answer.json").read_text(encoding="utf-8"))
    assert record["files"] == {"mask": "mask.png", "overlay": "overlay.png"}
    with Image.open(tmp_path / "new/mask.png") as stored:
        np.testing.assert_array_equal(np.array(stored) > 0, answer.objects[0].mask)
    assert (tmp_path / "new/overlay.png").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="choose another output folder"):
        write_answer(tmp_path / "file", answer, session.picture)


def test_follow_ups_equal_fresh_questions(predictor, picture, session):
    session.ask("Where are the lungs?")
    again = session.ask("Where is the polyp?")
    fresh = predictor.open(picture, modality="endoscopy").ask("Where is the polyp?")
    assert again.model_text == fresh.model_text
    assert again.objects[0].presence_prob == pytest.approx(fresh.objects[0].presence_prob, abs=1e-5)
    np.testing.assert_array_equal(again.objects[0].mask, fresh.objects[0].mask)


def test_a_session_and_a_batch_say_the_same(predictor, session, answer):
    text = predictor.text
    sample = {
        "image": session.canonical,
        "label": torch.zeros(1, *session.canonical.shape[1:]),
        "geometry": session.geometry,
        "modality": "endoscopy",
        "kind": "lesion",
        **dict.fromkeys(("question", "answer", "key", "picture", "target"), ""),
    }
    other = {**sample, "image": torch.rand(3, 128, 128), "label": torch.zeros(1, 128, 128)}
    other["geometry"] = Geometry((128, 128), (128, 128))
    sample["encoded"], other["encoded"] = text.encode("Where is the polyp?"), text.encode("And where, if at all, else?")
    batch = collate([sample, other], pad_id=text.pad_id)
    raw = answer_batch(predictor.network, batch, text)
    assert raw.texts[0] == answer.model_text
    assert float(raw.presence_prob[0]) == pytest.approx(answer.objects[0].presence_prob, abs=1e-5)
    options = {"kind": "lesion", "thresholds": predictor.thresholds, "zone_rule": "posmed"}
    thing = decide(soft_mask(raw.mask_prob[0], session.geometry), float(raw.presence_prob[0]), **options)
    np.testing.assert_array_equal(thing.mask, answer.objects[0].mask)


def test_a_volume_is_asked_at_a_slice(predictor, tmp_path):
    voxels = np.random.default_rng(0).normal(0, 300, (30, 20, 8)).astype(np.int16)
    write_nifti(tmp_path / "ct.nii.gz", voxels, np.diag([1.0, 1.0, 2.0, 1.0]))
    answer = predictor.open(tmp_path / "ct.nii.gz", modality="ct", position=SliceRef("coronal", 4)).ask("Where is it?")
    assert answer.objects[0].mask.shape == (8, 30)
    assert answer.to_json()["key_slice"] == {"axis": "coronal", "index": 4}
    with pytest.raises(DataError, match="no slice 20 along its coronal axis, it has 0 to 19"):
        predictor.open(tmp_path / "ct.nii.gz", modality="ct", position=SliceRef("coronal", 20))


def test_the_modality_is_never_guessed(predictor, picture):
    with pytest.raises(RequestError, match=r"polyp.png: the file does not say its modality; give one of ct, mri"):
        predictor.open(picture)
    with pytest.raises(RequestError, match="modality 'pet': unknown; give one of ct, mri"):
        predictor.open(picture, modality="pet")


@pytest.mark.parametrize(
    "question",
    ["息肉在哪里", "Где находится полип?", "أين الورم؟", "पॉलीप कहाँ है?", "👩🏽‍⚕️?", "<eos><bos>$@%#__image__"],
    ids=["chinese", "russian", "arabic", "hindi", "emoji", "markup"],
)
def test_any_question_works(session, question):
    answer = session.ask(question)
    assert answer.question == question and answer.text
    assert answer.objects[0].mask.shape == (60, 90)


@pytest.mark.parametrize(
    ("question", "message"),
    [("", "is empty"), (" \n\t", "is empty"), ("x" * 20_000, "has 20000 characters"), ("\ud800", "not valid Unicode")],
    ids=["empty", "blank", "long", "surrogate"],
)
def test_questions_that_cannot_be_asked(session, question, message):
    with pytest.raises(RequestError, match=message):
        session.ask(question)


def test_the_target_is_named_by_the_question(predictor):
    assert predictor.name_target("Where is the Lung Nodule?")[:2] == ("lung nodule", "lesion")
    assert predictor.name_target("Where are the lungs?") == ("lungs", "organ", [])
    assert predictor.name_target("Is there a nodule in the lungs?") == ("lung nodule", "lesion", [])
    assert predictor.name_target("Where is the mass? The lungs were clear.")[:2] == ("finding", "lesion")
    assert predictor.name_target("Are there polyps?")[0] == "polyp"
    assert predictor.name_target("Show me the right lung.") == ("lung", "organ", [])
    assert predictor.name_target("Where are the lungs? The patient had a tumour.")[0] == "lungs"
    target, kind, warnings = predictor.name_target("Is there pneumonia in the lungs?")
    assert (target, kind) == ("finding", "lesion") and "asks for something in the lungs" in warnings[0]
    target, kind, warnings = predictor.name_target("Where is the appendix?")
    assert (target, kind) == ("finding", "lesion") and "none of the targets" in warnings[0] and "polyp" in warnings[0]


def test_a_modality_without_training_is_warned_about(predictor, picture, answer):
    assert answer.warnings == []
    warned = predictor.open(picture, modality="mri").ask("Where is the polyp?")
    assert warned.warnings == ["this model was not trained on mri images"]


def test_a_target_that_was_never_seen_on_a_modality_is_warned_about(predictor, picture):
    session = predictor.open(picture, modality="ct")
    warned = session.ask("Where is the polyp?").warnings
    assert warned == ["this model saw no polyp on ct images: what it marks there may be something else"]
    assert session.ask("Where are the lungs?").warnings == []


def test_a_model_that_is_not_there():
    with pytest.raises(
        CheckpointError, match=r"no model 'huge': it is neither a folder nor one of .*; give the folder"
    ):
        Predictor.load("huge")


def _decided(presence_prob, *, soft_HW=None, kind="lesion"):
    if soft_HW is None:
        soft_HW = np.full((40, 30), 25, np.uint8)
        soft_HW[4:12, 4:12] = soft_HW[4:12, 24:28] = 128
    options = {"kind": kind, "thresholds": THRESHOLDS, "zone_rule": "posmed", "spacing_hw_mm": (2.0, 0.5)}
    return decide(soft_HW, presence_prob, **options)


def test_above_the_presence_threshold_the_mask_stands():
    thing = _decided(0.5)
    assert thing.present and thing.mask.shape == (40, 30) and thing.mask.sum() == 64 + 32
    assert thing.box_xyxy_px == (4, 4, 28, 12)
    assert [finding.zone for finding in thing.findings] == ["top-left", "top-right"]
    assert thing.findings[0].area_mm2 == 64.0  # 64 px of 2 x 0.5 mm
    assert len(_decided(0.5, kind="organ").findings) == 1


@pytest.mark.parametrize(("region", "area_px"), [(0.0, 64 + 32), (0.5, 64 + 32), (0.51, 64)])
def test_regions_below_a_share_of_the_largest_do_not_count(region, area_px):
    soft_HW = np.zeros((40, 30), np.uint8)
    soft_HW[4:12, 4:12] = soft_HW[30:38, 20:24] = 200
    thing = decide(soft_HW, 0.9, kind="lesion", thresholds={**THRESHOLDS, "region": region}, zone_rule="posmed")
    assert thing.mask.sum() == area_px and len(thing.findings) == (1 if area_px == 64 else 2)


def test_below_the_presence_threshold_the_mask_is_empty():
    thing = _decided(0.49)
    assert not thing.present and not thing.mask.any()
    assert thing.box_xyxy_px is None and thing.findings == [] and thing.presence_prob == pytest.approx(0.49)


def test_half_is_in_and_less_is_out():
    soft_HW = np.full((40, 30), 127, np.uint8)
    assert not _decided(0.9, soft_HW=soft_HW).mask.any()
    soft_HW[20:, :] = 128  # the stored value of 0.5
    assert _decided(0.9, soft_HW=soft_HW).mask.sum() == 20 * 30


def test_what_a_system_without_presence_draws_is_there():
    thing = _decided(None)
    assert thing.present and thing.mask.any() and thing.presence_prob == pytest.approx(128 / 255)
    thing = _decided(None, soft_HW=np.full((40, 30), 51, np.uint8))
    assert not thing.present and not thing.mask.any() and thing.presence_prob == pytest.approx(0.2)


def test_predictions_on_padding_are_ignored():
    prob = torch.zeros(1, 40, 40)
    prob[0, :, 30:] = 1.0
    soft_HW = soft_mask(prob, Geometry((40, 30), (40, 30)))
    assert soft_HW.shape == (40, 30) and soft_HW.dtype == np.uint8 and not soft_HW.any()


def _thing(*boxes, present=True):
    mask = np.zeros((100, 100), bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return AnswerObject(mask, None, present, 0.9, find(mask))


TOP_LEFT, BOTTOM_RIGHT, TOP_RIGHT = (5, 5, 25, 25), (80, 80, 90, 90), (80, 5, 85, 10)


@pytest.mark.parametrize(
    ("sentence", "thing", "expected"),
    [
        ("The polyp is in the top left.", _thing(TOP_LEFT), []),
        ("No polyp is visible.", _thing(present=False), []),
        ("There are 3 polyps; the largest is in the top left.", _thing(TOP_LEFT, BOTTOM_RIGHT, TOP_RIGHT), []),
        ("The polyp is in the top left.", _thing(TOP_LEFT, BOTTOM_RIGHT, TOP_RIGHT), ["of 1, the mask shows 3"]),
        (
            "There are three polyps; the largest is in the top left.",
            _thing(TOP_LEFT),
            ["speaks of 3, the mask shows 1"],
        ),
        ("The polyp is in the top right.", _thing(TOP_LEFT), ["says top-right, the mask lies at top-left"]),
        ("The polyp is in the top left.", _thing(TOP_LEFT, BOTTOM_RIGHT), ["the mask lies at top-left, bottom-right"]),
        ("No polyp is visible.", _thing(TOP_LEFT), ["nothing is visible, but the mask is not empty"]),
        ("The polyp is in the top left.", _thing(present=False), ["names a position, but the mask is empty"]),
        ("polyp polyp", _thing(TOP_LEFT), ["states no position that can be checked"]),
        ("No polyp is visible.", _thing(), ["something is visible, but the mask is empty"]),
        ("polyp", _thing(), ["something is visible, but the mask is empty", "no position that can be checked"]),
    ],
)
def test_every_kind_of_disagreement(sentence, thing, expected):
    found = contradictions_of(sentence, thing, target="polyp")
    assert len(found) == len(expected)
    for line, part in zip(found, expected, strict=True):
        assert part in line


def test_zones_that_a_truthful_sentence_names():
    assert described_zones(_thing(TOP_LEFT, BOTTOM_RIGHT).findings) == ("top-left", "bottom-right")
    assert described_zones(_thing(TOP_LEFT, BOTTOM_RIGHT, TOP_RIGHT).findings) == ("top-left",)
    assert described_zones([]) == ()


def test_one_frame_of_a_video_is_asked(predictor, tmp_path):
    frames_NHW = np.zeros((3, 30, 40), np.uint8)
    frames_NHW[1, 5:20, 5:20] = 200
    video = dicom_picture(frames_NHW[0], Modality="ES", NumberOfFrames=3)
    video.PixelData = frames_NHW.tobytes()
    path = save(tmp_path, video) / "0.dcm"
    np.testing.assert_array_equal(predictor.open(path, frame=2).source.array[..., 0], frames_NHW[1])
    with pytest.raises(DataError, match="has no frame 4; choose one from 1 to 3"):
        predictor.open(path, frame=4)


def test_another_target_and_another_side_are_contradictions():
    sentence = "The lung tumour is in the top left of the image."
    for names, expected in (((), 0), (("lung nodule", "lung tumour"), 1)):
        assert len(contradictions_of(sentence, _thing(TOP_LEFT), target="lung nodule", names=names)) == expected
    thing = _thing(TOP_LEFT)
    thing.findings = [replace(thing.findings[0], patient_side="right")]
    assert side_contradictions(thing, "left kidney") == [
        "the left kidney was asked for, the mask lies on the patient's right"
    ]
    assert side_contradictions(thing, "right kidney") == side_contradictions(thing, "polyp") == []


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_templates_own_sentences_count_right(count):
    boxes = [(5 + 18 * index, 5, 15 + 18 * index, 15 + index) for index in range(count)]
    findings, bank = _thing(*boxes).findings, TemplateBank.load()
    for split in bank.splits:
        for seed in range(40):
            turn = bank.question(split, target="polyp", modality=None, rng=np.random.default_rng(seed))
            told = bank.answer(turn.template_id, target="polyp", findings=findings, rng=np.random.default_rng(seed))
            assert contradictions_of(told, _thing(*boxes), target="polyp", names=("polyp",)) == [], told
