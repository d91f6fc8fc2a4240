"""Asking MediSee: a session's record, refusals, the batch of an evaluation, and its score."""

import json
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

import prsmed.sessions
from bundle.scoring import ScoreHandler, prediction_of
from prsmed.answers import RawAnswers, answer_batch, detected_box
from prsmed.data.preprocessing import Preprocessing
from prsmed.errors import RequestError
from prsmed.predictor import Predictor, shipped_model
from prsmed.query_samples import query_items
from prsmed.samples import add_text, collate, load_item
from prsmed.text.encode import word_ids
from prsmed.text.fact_words import told_by_facts
from prsmed.types import SliceRef
from prsmed.volumes import VolumeOptions
from tests.unit.queries_set import write_query_set
from tests.unit.small_medisee import small_medisee, small_text

QUESTION = "Which organ makes bile?"


@pytest.fixture(scope="module")
def preprocessing(repository: Path) -> Preprocessing:
    config = json.loads((repository / "configs" / "train.json").read_text(encoding="utf-8"))
    return Preprocessing(config["preprocessing_steps"])


@pytest.fixture
def predictor(preprocessing: Preprocessing) -> Predictor:
    info = {
        "task": "medisee",
        "preset": "miniature",
        "name": "random",
        "licence": "Apache-2.0",
        "version": "0.0",
        "weights": {"sha256": "0" * 64},
        "zone_rule": "posmed",
        "thresholds": {"mask": 0.5, "presence": 0.5},
        "targets": {"liver": "organ", "inferior vena cava": "organ"},
    }
    return Predictor(small_medisee(), small_text(), preprocessing, info)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("seeing") / "slice.png"
    Image.fromarray((np.random.default_rng(0).random((40, 64)) * 255).astype(np.uint8)).save(path)
    return path


def _says(predictor: Predictor, sentence: str, *, points: bool) -> None:
    """Let the network say this, token by token; states and masks stay its own. In `forced` mode the candidates are
    written, not said."""
    text = predictor.text
    encoded = text.encode(QUESTION, sentence, points=points and predictor.network.mode == "free")
    script: list[int | None] = encoded.target_ids[encoded.target_ids >= 0].tolist()
    if predictor.network.mode == "free":
        script.insert(len(text.candidate_ids), None)  # what was said so far is looked at again
    calls = {"n": 0}
    original = type(predictor.network.language).logits

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        raw = original(predictor.network.language, hidden)
        if hidden.ndim == 2:
            if calls["n"] < len(script) and script[calls["n"]] is not None:
                raw[..., script[calls["n"]]] += 1e4
            calls["n"] += 1
        return raw

    predictor.network.language.logits = logits  # type: ignore[method-assign]


def test_an_answer_explains_points_and_is_named_by_its_sentence(predictor, picture):
    sentence = "This is the liver: it lies beside the inferior vena cava."
    _says(predictor, sentence, points=True)
    answer = predictor.open(picture, modality="ct").ask(QUESTION)
    thing = answer.objects[0]
    assert answer.model_text == sentence and thing.present and thing.presence_prob >= 0.5
    x0, y0, x1, y1 = thing.detected_box_xyxy_px
    assert 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 40
    assert "liver" in answer.rule_text and not answer.warnings[1:]
    if thing.mask.any():
        assert not answer.contradictions and answer.text == sentence


@pytest.mark.parametrize("mode", ["forced", "free"])
def test_an_answer_is_about_what_was_decided(predictor, picture, mode):
    predictor.network = small_medisee(coarse_width=16)
    predictor.network.mode = mode
    session, coarse, language = predictor.open(picture, modality="ct"), *_parts(predictor)
    statements = []

    def likelihoods(cache, mask, last_ids, ids, *, says, by):
        statements[:] = [predictor.text.decode(row) for row in ids]
        log_prob = torch.zeros(1, *ids.shape)
        log_prob[0, 1 - says, (ids[1 - says] >= 0).sum() - 1] = -by
        return log_prob

    def asked(says: int, by: float):
        _says(predictor, "", points=True)
        language.likelihoods = partial(likelihoods, says=says, by=by)
        return session.raw(QUESTION)

    with torch.no_grad():
        words = word_ids([*predictor.info["targets"]], predictor.text.tokenizer)
        of_names = coarse.named(language.embed_words(words))
    told = told_by_facts([QUESTION], [*predictor.info["targets"]])[0]
    assert told[0] > told[1]
    for number, name in enumerate(predictor.info["targets"]):
        coarse.query.forward = lambda states, number=number: of_names[[number]]
        raw = asked(number, by=20.0)
        assert statements == ["This is the liver", "This is the inferior vena cava"]
        assert raw.named == [name] and raw.agreed == [True] and raw.texts[0].startswith(statements[number])
        like = of_names[number] @ (of_names[number] - of_names[1 - number]) / 4
        by = float(like + 2 * (told[number] - told[1 - number]))
        assert asked(1 - number, by).agreed == [False], "the words mean one thing, as much as all else the other"
        assert asked(1 - number, by + 20).named == [[*predictor.info["targets"]][1 - number]]
    _says(predictor, "", points=True)
    batch = {**predictor.questions(QUESTION, 1), "image": session._image_BCHW, "geometry": [session.geometry]}
    alone = answer_batch(predictor.network, batch, predictor.text, words=False)
    assert alone.named == [None] and alone.agreed is None, "nothing known, nothing decided"
    language.likelihoods = lambda cache, mask, last_ids, ids: torch.full((1, *ids.shape), -3.0)
    _says(predictor, "This is the liver.", points=True)
    own = session.raw(QUESTION)
    assert own.named == [None] and own.agreed == [False] and own.texts == ["This is the liver."]


def _parts(predictor):
    return predictor.network.heads.coarse, predictor.network.language


def test_readings_that_differ_are_told(predictor, picture, monkeypatch):
    def asked(agreed, *, bright=1.0, sentence="This is the liver: it makes bile.", named="liver", question=QUESTION):
        mask = torch.zeros(1, 1, 40, 64)
        mask[..., 5:15, 5:15] = bright
        decided = {"pointed": torch.tensor([True]), "named": [named], "agreed": [agreed]}
        raw = RawAnswers(mask, torch.tensor([0.9]), [sentence], **decided)
        monkeypatch.setattr(prsmed.sessions, "answer_batch", lambda *_, **__: raw)
        return predictor.open(picture, modality="ct").ask(question)

    doubted = asked(False)
    assert doubted.contradictions == ["the model's sentence names the liver, and it is not sure that this is meant"]
    assert doubted.text_source == "rule" and "liver" not in doubted.text and doubted.objects[0].mask.any()
    assert (doubted.target, doubted.kind) == ("finding", "lesion")
    no_name = "what is marked has no name: the model is not sure enough what is meant"
    assert no_name in doubted.warnings
    for agreed in (True, None):
        same = asked(agreed)
        assert not same.contradictions and same.text == "This is the liver: it makes bile." and same.target == "liver"
    unknown = asked(False, sentence="This is the prostate.", named=None)
    assert unknown.contradictions == ["the model's sentence names nothing that it was trained on"]
    assert unknown.text_source == "rule" and "prostate" not in unknown.text and unknown.target == "finding"
    side = "the side that was asked about was not applied"
    question = "Which organ on the patient's right makes bile?"
    assert side in asked(False, question=question).warnings and side not in doubted.warnings
    assert "liver" not in asked(False, bright=0.0).text, "nothing is marked, and still it is not sure"


def test_a_refusal_has_no_mask_and_no_box(predictor, picture):
    _says(predictor, "There is no liver to be seen in this image.", points=False)
    answer = predictor.open(picture, modality="ct").ask(QUESTION)
    thing = answer.objects[0]
    assert not thing.present and not thing.mask.any() and thing.presence_prob < 0.5
    assert thing.box_xyxy_px is None and thing.detected_box_xyxy_px is None
    assert answer.text == answer.model_text == "There is no liver to be seen in this image."
    assert not answer.contradictions and json.loads(json.dumps(answer.to_json()))["objects"][0]["present"] is False


def _refused(predictor, picture, monkeypatch, question, sentence, *, presence=0.2):
    raw = RawAnswers(torch.zeros(1, 1, 40, 64), torch.tensor([presence]), [sentence], pointed=torch.tensor([True]))
    monkeypatch.setattr(prsmed.sessions, "answer_batch", lambda *_, **__: raw)
    return predictor.open(picture, modality="ct").ask(question)


def test_words_that_the_picture_overrules_name_nothing(predictor, picture, monkeypatch):
    sentence = "This is the spleen: it makes bile."
    answer = _refused(predictor, picture, monkeypatch, QUESTION, sentence)
    said = "the model's sentence points at something, but nothing in the image looks like it"
    assert answer.contradictions == [said] and answer.model_text == sentence and answer.text_source == "rule"
    assert answer.text == "What was asked for is not visible in this image."  # of the spleen nothing is known
    named = _refused(predictor, picture, monkeypatch, "Show me the liver.", sentence)
    assert named.text == "No liver is visible in this image."
    denial = "There is no liver to be seen in this image."
    assert not _refused(predictor, picture, monkeypatch, "Show me the liver.", denial).contradictions
    drawn_faintly = _refused(predictor, picture, monkeypatch, QUESTION, sentence, presence=0.9)
    assert len(drawn_faintly.contradictions) == 1 and "mask is empty" in drawn_faintly.contradictions[0]


def test_a_question_that_names_nothing_is_answered_with_a_warning(predictor, picture):
    _says(predictor, "It may be anything.", points=True)
    answer = predictor.open(picture, modality="ct").ask("qwx zzz?")
    assert answer.model_text == "It may be anything."
    assert "the model's sentence names none of the targets it was trained on" in answer.warnings


@pytest.mark.parametrize(("question", "says"), [("  ", "empty"), ("x" * 2001, "2001 characters")])
def test_a_question_that_cannot_be_read_is_refused(predictor, picture, question, says):
    with pytest.raises(RequestError, match=says):
        predictor.open(picture, modality="ct").ask(question)


def test_forced_always_points(predictor, picture):
    _says(predictor, "no", points=False)
    predictor.network.mode = "forced"
    answer = predictor.open(picture, modality="ct").ask(QUESTION)
    assert answer.objects[0].detected_box_xyxy_px is not None or not answer.objects[0].present


def test_a_box_beside_the_mask_is_told_and_the_explanation_stays(predictor, picture, monkeypatch):
    mask_prob = torch.zeros(1, 1, 40, 64)
    mask_prob[..., 10:20, 10:20] = 1
    sentence = "This is the liver."

    def told(box_xyxy_px):
        box_norm = torch.tensor([box_xyxy_px]) / torch.tensor([64, 40, 64, 40])
        raw = RawAnswers(mask_prob, torch.ones(1), [sentence], boxes_xyxy_norm=box_norm)
        monkeypatch.setattr(prsmed.sessions, "answer_batch", lambda *_, **__: raw)
        answer = predictor.open(picture, modality="ct").ask(QUESTION)
        assert answer.text == sentence
        return answer.contradictions

    assert told([12.0, 12.0, 40.0, 30.0]) == []
    assert told([12.0, 25.0, 40.0, 30.0]) == ["the box of the box decoder lies elsewhere than the mask"]


def _write_volume(path, *, bright=()):
    voxels = np.random.default_rng(0).integers(-900, -300, (30, 20, 6)).astype(np.int16)
    for box in bright:
        voxels[box] = 400
    nib.save(nib.Nifti1Image(voxels, np.diag([-1.0, -1.0, 2.0, 1.0])), path)
    return path


def test_a_volume_is_seen_slice_by_slice(predictor, tmp_path):
    path = _write_volume(tmp_path / "ct.nii")
    predictor.network.mode = "forced"
    volume = VolumeOptions(batch_size=4, min_volume_mm3=0)
    answer = predictor.open(path, modality="ct", volume=volume).ask(QUESTION)
    single = [predictor.open(path, modality="ct", position=SliceRef("axial", k)).ask(QUESTION) for k in range(6)]
    # stored from the patient's right to left and from front to back, as an axial slice is shown
    np.testing.assert_array_equal(answer.mask_ijk, np.stack([one.objects[0].mask.T for one in single], axis=2))
    assert answer.model_text == single[answer.key_slice.index].model_text


def test_a_volume_s_target_is_what_the_answer_names(predictor, tmp_path, monkeypatch):
    """The question names nothing; an organ in two parts is one finding, and a lesion would be two."""
    sentence = "This is the liver."

    def answer(network, batch, text, *, words=True, **_):
        prob = (batch["image"][:, :1] > 0.5).float()
        return RawAnswers(prob, prob.amax(dim=(1, 2, 3)), [sentence] * len(prob) if words else None)

    monkeypatch.setattr(prsmed.sessions, "answer_batch", answer)
    parts = [np.s_[3:9, 4:10, 1:3], np.s_[20:26, 4:10, 3:5]]
    asked = predictor.open(_write_volume(tmp_path / "ct.nii", bright=parts), modality="ct").ask(QUESTION)
    assert len(asked.volume_statistics["findings"]) == 1 and asked.text == sentence
    assert "liver" in asked.rule_text and not any("names none" in line for line in asked.warnings)


@pytest.mark.parametrize("is_volume", [True, False])
def test_files_name_a_mask_as_its_answer_does(predictor, tmp_path, monkeypatch, is_volume):
    named_in_files = []

    def write_dicom(folder, answer, mask, source, *, target, kind, side):
        named_in_files.append((target, kind))
        return {}

    monkeypatch.setattr(prsmed.sessions, "write_dicom", write_dicom)
    monkeypatch.setattr(prsmed.sessions, "require_dicom", lambda source: None)
    path = _write_volume(tmp_path / "ct.nii", bright=[np.s_[3:9, 4:10, 1:3]])
    session = predictor.open(path, modality="ct", position=None if is_volume else SliceRef("axial", 1))
    for sentence, expected in (("This is it.", ("finding", "lesion")), ("This is the liver.", ("liver", "organ"))):

        def answer(network, batch, text, *, words=True, sentence=sentence, **_):
            prob = (batch["image"][:, :1] > 0.5).float()
            return RawAnswers(prob, prob.amax(dim=(1, 2, 3)), [sentence] * len(prob) if words else None)

        monkeypatch.setattr(prsmed.sessions, "answer_batch", answer)
        asked = session.ask("Which organ lies left of the inferior vena cava?")
        session.write(tmp_path / "out", asked, dicom=True)
        assert named_in_files.pop() == (asked.target, asked.kind) == expected
        assert ("liver" in asked.text) == (expected[0] == "liver")
        assert "target" not in asked.to_json()


def test_a_volume_s_answer_is_about_one_thing(predictor, tmp_path, monkeypatch):
    """Three slices show much of one thing, one of another: the slice with the other one does not count."""
    parts = [np.s_[3:9, 4:12, 1:3], np.s_[3:9, 4:14, 3:4], np.s_[20:24, 4:8, 4:5]]
    known = []

    def answer(network, batch, text, *, words=True, names=(), **_):
        known.append(tuple(names))
        prob = (batch["image"][:, :1] > 0.5).float()
        named = ["liver" if share > 0.05 else "inferior vena cava" for share in prob.mean(dim=(1, 2, 3)).tolist()]
        said = [f"This is the {name}." for name in named] if words else None
        agreed = [share < 0.09 for share in prob.mean(dim=(1, 2, 3)).tolist()]  # not of the slice with most
        return RawAnswers(prob, prob.amax(dim=(1, 2, 3)), said, named=named, agreed=agreed)

    monkeypatch.setattr(prsmed.sessions, "answer_batch", answer)
    volume = predictor.open(_write_volume(tmp_path / "ct.nii", bright=parts), modality="ct")
    asked = volume.ask(QUESTION)
    assert set(known) == {("liver", "inferior vena cava")}
    assert asked.mask_ijk[..., 1:4].any(axis=(0, 1)).all() and not asked.mask_ijk[..., 4].any()
    assert asked.target == "liver" and asked.text == "This is the liver." and not asked.contradictions
    note = "in some slices the model took another thing for what is meant (inferior vena cava): left out"
    assert note in asked.warnings
    one = predictor.open(_write_volume(tmp_path / "ct.nii", bright=parts[:2]), modality="ct").ask(QUESTION)
    np.testing.assert_array_equal(one.mask_ijk, asked.mask_ijk)
    assert not any("left out" in line for line in one.warnings)


def test_words_that_a_volume_denies_name_nothing(predictor, tmp_path, monkeypatch):
    def answer(network, batch, text, *, words=True, **_):
        prob = torch.zeros_like(batch["image"][:, :1])
        said = ["This is the spleen."] * len(prob) if words else None
        return RawAnswers(prob, torch.full((len(prob),), 0.2), said, pointed=torch.ones(len(prob), dtype=torch.bool))

    monkeypatch.setattr(prsmed.sessions, "answer_batch", answer)
    volume = predictor.open(_write_volume(tmp_path / "ct.nii"), modality="ct")
    assert volume.ask(QUESTION).text == "What was asked for is not visible in this image."
    assert volume.ask("Show me the liver.").text == "No liver is visible in this image."


def test_the_task_is_named_or_follows_from_the_model(predictor):
    assert shipped_model(None) == "tiny" and shipped_model("medisee") == "medisee"
    predictor.require_task(None)
    predictor.require_task("medisee")
    with pytest.raises(RequestError, match="trained for medisee, not for prs_med"):
        predictor.require_task("prs_med")
    with pytest.raises(RequestError, match="prs_med, medisee"):
        shipped_model("unet")
    with pytest.raises(RequestError, match="free, forced"):
        Predictor.load("tiny", mode="eager")


def test_pictures_of_a_batch_are_encoded_once_and_scored(predictor, preprocessing, tmp_path, monkeypatch):
    manifest = write_query_set(tmp_path / "data")
    items = query_items(manifest, "train", slices={"axis": "axial", "with_target": 1, "without_target": 0})
    text, rng = predictor.text, np.random.default_rng(0)
    samples = [
        add_text(
            {**load_item(manifest, item, preprocessing), "index": index},
            bank=None,
            text=text,
            split="train",
            answers=False,
            zone_rule="posmed",
            rng=rng,
        )
        for index, item in enumerate(items)
    ]
    batch = collate(samples, pad_id=text.pad_id)
    seen = []
    encode = predictor.network.encoder.encode
    monkeypatch.setattr(
        predictor.network.encoder, "encode", lambda image, hw: seen.append(len(image)) or encode(image, hw)
    )
    predictor.network.mode = "forced"
    raw = answer_batch(predictor.network, batch, text, words=False)
    assert seen == [2] and len(raw.mask_prob) == len(items) == 10
    alone = collate([samples[4]], pad_id=text.pad_id)
    single = answer_batch(predictor.network, alone, text, words=False)
    height, width = samples[4]["image"].shape[1:]
    torch.testing.assert_close(
        raw.mask_prob[4, :, :height, :width], single.mask_prob[0, :, :height, :width], atol=1e-4, rtol=0
    )
    assert prediction_of(raw, batch, 4).box_xyxy_px == pytest.approx(
        detected_box(single, 0, alone["geometry"][0].slice_hw_px), abs=0.05
    )
    raw.texts = ["This is the liver."] * len(items)
    raw.agreed = [None, False, None, None, True, *[None] * 5]
    handler = ScoreHandler(items, manifest=manifest, thresholds={"mask": 0.5, "presence": 0.5}, zone_rule="posmed")
    for row, _ in enumerate(items):
        handler.scorer.add(row, prediction_of(raw, batch, row))
    rows = {row.key: row for row in handler.scorer.rows()}
    looks = [row.readings_agree for row in handler.scorer.rows()]
    assert looks[1] is False and looks[4] is True and {*looks[:1], *looks[2:4], *looks[5:]} == {None}
    assert rows["case0/q2"].names_target is True and rows["case0/q5"].names_target is False
    assert rows["case0/q2"].query_length == "long" and rows["case0/q2"].text_kind == "silent"
    assert 0 <= rows["case0/q5"].decoder_box_iou <= 1
    absent = rows["case1/q4"]
    assert not absent.present and absent.names_target is None and absent.decoder_box_iou is None


def test_a_question_that_names_something_unknown_is_told_so(predictor, picture):
    said = "This is the liver: it lies beside the inferior vena cava."
    for question in (
        "Mark the liver.",
        "Mark the organ beneath the ribs.",
        "Which of the glands is beside the trachea?",
        "The patient had a stroke. Where is the liver?",
        "Mark the head of the liver.",
        "Where is the thingummy?",
    ):
        assert predictor.name_target(question, said) == ("liver", "organ", [])
    note = "the question names the trachea, which this model was not trained on"
    assert predictor.name_target("Mark the trachea.", said) == ("finding", "lesion", [note])
    assert "iliac vein" in predictor.name_target("Mark the iliac vein.", said)[2][0], "the vein is its name"
    side = "the side that was asked about was not applied"
    assert predictor.name_target("Mark the patient's right lung.", said)[2][1:] == [side]
    _says(predictor, said, points=True)
    answer = predictor.open(picture, modality="ct").ask("Mark the Trachea, please.")
    assert note in answer.warnings and answer.target == "finding"
    assert answer.text_source == "rule" and "liver" not in answer.text and answer.contradictions
