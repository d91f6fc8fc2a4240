"""PRS-Med on random weights: no leak from answers, no influence of the batch, one pass equals many."""

import copy

import pytest
import torch

from prsmed.losses import PRSMedLoss
from prsmed.models.prs_med import PRSMed, last_states
from prsmed.samples import collate
from prsmed.text.encode import IMAGE_ID, pad_batch
from tests.unit.small_networks import small_network, small_text

QUESTIONS = (
    "Where is the polyp?",
    "In which part of this MRI image does the brain tumour lie, please?",
    "Wo liegt das Melanom?",
)
ANSWERS = ("The polyp is in the top left.", "It lies in the bottom right of the image.", "No melanoma is visible.")
SIZES_HW_PX = ((32, 24), (20, 32), (32, 32))


@pytest.fixture(scope="module")
def text():
    return small_text()


@pytest.fixture(scope="module")
def network(text) -> PRSMed:
    network = small_network(len(text.tokenizer))
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    network.train()
    with torch.no_grad():  # batch-norm statistics that fit the weights
        for _ in range(5):
            batch = _texts(text, QUESTIONS[:1] * 8)
            network(images, [(32, 32)] * 8, batch["input_ids"], batch["attention_mask"], batch["prompt_mask"])
    return network.eval()


def _images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, *hw_px, generator=generator) for hw_px in SIZES_HW_PX]


def _common(images, hw_px=(32, 32), fill=0.0) -> torch.Tensor:
    common = torch.full((len(images), 3, *hw_px), fill)
    for row, image in zip(common, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    return common


def _texts(text, questions, answers=None, *, longer_by=0) -> dict[str, torch.Tensor]:
    turns = [
        text.encode(question, answer)
        for question, answer in zip(questions, answers or [None] * len(questions), strict=True)
    ]
    batch = pad_batch(turns, text.pad_id)
    if longer_by:
        fill = {"input_ids": text.pad_id, "attention_mask": 0, "prompt_mask": 0, "target_ids": -100}
        batch = {
            name: torch.nn.functional.pad(value, (0, longer_by), value=fill[name]) for name, value in batch.items()
        }
    return batch


def _pass(network, images, sizes, batch, *, with_targets=False, **options):
    return network(
        images,
        list(sizes),
        batch["input_ids"],
        batch["attention_mask"],
        batch["prompt_mask"],
        target_ids=batch["target_ids"] if with_targets else None,
        **options,
    )


@pytest.mark.parametrize("seg_token", [False, True], ids=["question", "seg token"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_answer_does_not_reach_mask_and_presence(network, text, training, seg_token):
    network = copy.deepcopy(network).train(training)
    network.seg_token = seg_token
    batch = _texts(text, QUESTIONS, ANSWERS)
    other = {name: value.clone() for name, value in batch.items()}
    is_answer = batch["target_ids"] >= 0
    other["input_ids"][is_answer] = other["target_ids"][is_answer] = (batch["input_ids"][is_answer] + 17) % 200
    longer = _texts(text, QUESTIONS, [f"{answer} That is all there is to say about it." for answer in ANSWERS])
    without = _texts(text, QUESTIONS)
    with torch.no_grad():
        true, changed, long, asked = (
            _pass(network, _common(_images()), SIZES_HW_PX, version, with_targets=True)
            for version in (batch, other, longer, without)
        )
    assert not torch.equal(true.text_logits, changed.text_logits)
    for name in ("mask_logits", "presence_logit", "evidence_logits"):
        assert torch.equal(getattr(true, name), getattr(changed, name)), name
        for version in (long, asked):
            torch.testing.assert_close(getattr(true, name), getattr(version, name), atol=1e-5, rtol=0)


def test_the_question_does_reach_mask_and_presence(network, text):
    asked = [_texts(text, questions) for questions in (QUESTIONS, QUESTIONS[::-1])]
    with torch.no_grad():
        one, other = (_pass(network, _common(_images()), SIZES_HW_PX, batch) for batch in asked)
    assert (one.mask_logits - other.mask_logits)[0].abs().max() > 1e-2
    assert (one.presence_logit - other.presence_logit)[0].abs() > 1e-3
    assert torch.equal(one.evidence_logits, other.evidence_logits)  # from the image alone


def test_a_window_is_looked_at_instead_of_the_picture(network, text):
    images, texts = _common(_images()), _texts(text, QUESTIONS)
    windows = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.3, 0.2, 1.0, 0.9], [1.0, 0.0, 0.0, 1.0]])
    arguments = (images, SIZES_HW_PX, texts["input_ids"], texts["attention_mask"], texts["prompt_mask"])
    with torch.no_grad():
        plain, seen = network(*arguments), network(*arguments, windows_xyxy_norm=windows)
    for name in ("mask_logits", "evidence_logits", "prompt_states", "presence_logit"):
        torch.testing.assert_close(seen[name][:1], plain[name][:1], atol=1e-4, rtol=1e-4)
        assert all(not torch.allclose(seen[name][row], plain[name][row], atol=1e-5) for row in (1, 2)), name
    mirrored = network.encoder.encode(images, SIZES_HW_PX, windows).features[2]
    torch.testing.assert_close(mirrored, network.encoder.encode(images, SIZES_HW_PX).features[2].flip(2))


def test_the_seg_token_is_the_one_state_that_predicts_the_first_answer_token(network, text):
    network = copy.deepcopy(network).train()
    network.seg_token = True
    asked = []
    network.fusion.register_forward_pre_hook(lambda _module, inputs: asked.append(inputs[1:]))
    batch = _texts(text, QUESTIONS, ANSWERS)
    output = _pass(network, _common(_images()), SIZES_HW_PX, batch, with_targets=True)
    ((state_K1D, mask_K1),) = asked
    assert mask_K1.shape == (3, 1) and mask_K1.all()
    for row in range(3):
        first = int((batch["target_ids"][row] >= 0).int().argmax())
        assert torch.equal(state_K1D[row, 0], output.prompt_states[row, first - 1])


def test_the_mask_sends_no_gradient_to_answer_tokens(network, text):
    network = copy.deepcopy(network).train()
    seen = []

    def keep(_module, _inputs, embeds_KTD):
        embeds_KTD.retain_grad()
        seen.append(embeds_KTD)

    network.language.model.get_input_embeddings().register_forward_hook(keep)
    batch = _texts(text, QUESTIONS, ANSWERS)
    output = _pass(network, _common(_images()), SIZES_HW_PX, batch, with_targets=True)
    (output.mask_logits.square().mean() + output.presence_logit.square().mean()).backward()
    gradient_KT = seen[0].grad.abs().sum(dim=2)
    assert (gradient_KT[~batch["prompt_mask"]] == 0).all()
    is_word = batch["prompt_mask"] & (batch["input_ids"] != IMAGE_ID)
    assert (gradient_KT[is_word] > 0).all()


@pytest.mark.parametrize(
    ("common_hw_px", "fill", "longer_by"),
    [((32, 32), 0.0, 0), ((48, 57), 0.0, 0), ((40, 40), 9.0, 0), ((32, 32), 0.0, 7)],
)
def test_neighbours_and_padding_do_not_change_a_sample(network, text, common_hw_px, fill, longer_by):
    images = _images()
    batch = _texts(text, QUESTIONS, longer_by=longer_by)
    with torch.no_grad():
        together = _pass(network, _common(images, common_hw_px, fill), SIZES_HW_PX, batch, keep_cache=True)
    words = network.continue_text(together, batch["attention_mask"], max_new_tokens=12, end_id=text.end_id).ids
    for row, (image, hw_px) in enumerate(zip(images, SIZES_HW_PX, strict=True)):
        single = _texts(text, [QUESTIONS[row]])
        with torch.no_grad():
            alone = _pass(network, image[None], [hw_px], single, keep_cache=True)
        height, width = hw_px
        same = {"atol": 1e-5, "rtol": 0}
        torch.testing.assert_close(together.mask_logits[row, :, :height, :width], alone.mask_logits[0], **same)
        torch.testing.assert_close(together.presence_logit[row], alone.presence_logit[0], **same)
        torch.testing.assert_close(together.evidence_logits[row, :, :height, :width], alone.evidence_logits[0], **same)
        said = network.continue_text(alone, single["attention_mask"], max_new_tokens=12, end_id=text.end_id).ids[0]
        assert text.decode(words[row]) == text.decode(said)


def test_generation_from_the_cache_equals_greedy_decoding_without_one(network, text):
    batch = _texts(text, QUESTIONS)
    images = _common(_images())
    with torch.no_grad():
        output = _pass(network, images, SIZES_HW_PX, batch, keep_cache=True)
        image_embeds = network.encode_image(images, SIZES_HW_PX).image_embeds
    generated = network.continue_text(output, batch["attention_mask"], max_new_tokens=10, end_id=text.end_id)
    assert len(generated.ids.unique()) > 5, "the random network repeats itself: the test would show nothing"
    for row in range(len(QUESTIONS)):
        ids = batch["input_ids"][row][batch["attention_mask"][row]].tolist()
        for position in range(generated.ids.shape[1]):
            sequence = torch.tensor([ids])
            with torch.no_grad():
                hidden, cache = network.language(sequence, image_embeds[row : row + 1], torch.ones_like(sequence))
            assert cache is None
            torch.testing.assert_close(generated.hidden[row, position], hidden[0, -1], atol=1e-4, rtol=0)
            expected = int(network.language.logits(hidden[0, -1]).argmax())
            assert int(generated.ids[row, position]) == expected
            if expected == text.end_id:
                assert (generated.ids[row, position:] == text.end_id).all()
                break
            ids.append(expected)


def test_two_questions_about_one_image_equal_two_calls(network, text):
    images = _images()
    batch = _texts(text, QUESTIONS)
    obj_image = torch.tensor([1, 0, 1])
    with torch.no_grad():
        grouped = _pass(network, _common(images[:2]), SIZES_HW_PX[:2], batch, obj_image=obj_image, keep_cache=True)
    assert grouped.evidence_logits.shape[0] == 2 and grouped.mask_logits.shape[0] == 3
    words = network.continue_text(grouped, batch["attention_mask"], max_new_tokens=8, end_id=text.end_id).ids
    for row, index in enumerate(obj_image.tolist()):
        height, width = SIZES_HW_PX[index]
        single = _texts(text, [QUESTIONS[row]])
        with torch.no_grad():
            alone = _pass(network, images[index][None], [SIZES_HW_PX[index]], single, keep_cache=True)
        mask_logits = grouped.mask_logits[row, :, :height, :width]
        torch.testing.assert_close(mask_logits, alone.mask_logits[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(grouped.presence_logit[row], alone.presence_logit[0], atol=1e-5, rtol=0)
        said = network.continue_text(alone, single["attention_mask"], max_new_tokens=8, end_id=text.end_id).ids[0]
        assert text.decode(words[row]) == text.decode(said)


def test_a_follow_up_equals_a_fresh_question(network, text):
    image, sizes = _images()[0][None], SIZES_HW_PX[:1]
    batch = _texts(text, QUESTIONS[1:2])
    with torch.no_grad():
        encoded = network.encode_image(image, sizes)
        _pass(network, image, sizes, _texts(text, QUESTIONS[:1]), encoded=encoded, keep_cache=True)
        follow_up = _pass(network, torch.zeros_like(image), sizes, batch, encoded=encoded)
        fresh = _pass(network, image, sizes, batch)
    assert torch.equal(follow_up.mask_logits, fresh.mask_logits)
    assert torch.equal(follow_up.presence_logit, fresh.presence_logit)


def test_a_question_after_its_prefix_equals_one_pass(network, text):
    """Mask and words of a session, which reads the image tokens once, are those of a whole pass."""
    network.eval()
    image, sizes = _common(_images()[:1]), SIZES_HW_PX[:1]
    encoded = network.encode_image(image, sizes)
    prefix = network.language.read_prefix(text.prefix_ids[None], encoded.image_embeds)
    for question in ("Where is the polyp?", "Point out the lungs."):  # the second must not find the first in the cache
        batch = _texts(text, [question])
        whole, continued = (
            _pass(network, image, sizes, batch, encoded=encoded, keep_cache=True, prefix=start)
            for start in (None, prefix)
        )
        torch.testing.assert_close(continued.mask_logits, whole.mask_logits, atol=1e-5, rtol=1e-5)
        words = [
            network.continue_text(output, batch["attention_mask"], max_new_tokens=8, end_id=text.end_id).ids
            for output in (whole, continued)
        ]
        assert torch.equal(*words)


def test_text_logits_are_those_that_predict_the_answer(network, text):
    batch = _texts(text, QUESTIONS, ANSWERS)
    with torch.no_grad():
        output = _pass(network, _common(_images()), SIZES_HW_PX, batch, with_targets=True)
    answer_ids = batch["target_ids"][batch["target_ids"] >= 0]
    assert output.text_logits.shape == (len(answer_ids), len(text.tokenizer))
    everywhere = network.language.logits(output.prompt_states)
    rows, columns = torch.nonzero(batch["target_ids"] >= 0, as_tuple=True)
    torch.testing.assert_close(output.text_logits, everywhere[rows, columns - 1])


def _frozen(network, trainable):
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(trainable))
    return network.train()


@pytest.mark.parametrize("trainable", [("fusion.", "decoder."), ("language.", "encoder.net.neck"), ("encoder.",)])
def test_what_is_frozen_does_not_move_not_even_its_statistics(network, text, trainable):
    network = _frozen(copy.deepcopy(network), trainable)
    before = copy.deepcopy(network.state_dict())
    batch = {
        **_texts(text, QUESTIONS, ANSWERS),
        "label": torch.ones(3, 1, 32, 32),
        "valid": torch.ones(3, 1, 32, 32),
        "present": torch.ones(3),
        "kind_index": torch.zeros(3, dtype=torch.long),
        "state_index": torch.zeros(3, dtype=torch.long),
        "obj_image": torch.arange(3),
    }
    optimizer = torch.optim.AdamW((p for p in network.parameters() if p.requires_grad), lr=0.1)
    output = _pass(network, _common(_images()), SIZES_HW_PX, batch, with_targets=True)
    PRSMedLoss({"bce": 1, "dice": 1, "ce": 0.5, "presence": 1, "evidence": 1})(output, batch).backward()
    optimizer.step()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith(trainable) for name in moved), sorted(moved)[:5]
    if "decoder." in trainable:
        assert any(name.startswith("decoder.") and name.endswith("running_mean") for name in moved)
    assert not network.eval().training and not any(module.training for module in network.modules())


def test_everything_trains_where_nothing_is_frozen(network):
    assert all(module.training for module in copy.deepcopy(network).train().modules())


def test_a_network_without_evidence_tokens():
    text = small_text(evidence_cells=0)
    network = small_network(len(text.tokenizer), evidence_cells=0).eval()
    with torch.no_grad():
        output = _pass(network, _common(_images()), SIZES_HW_PX, _texts(text, QUESTIONS))
    assert output.evidence_logits is None and output.mask_logits.shape == (3, 1, 32, 32)
    assert output.text_logits is None and output.cache is None


def test_last_states_are_those_at_the_last_true():
    hidden = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[True, True, False], [True, False, True]])
    assert last_states(hidden, mask).tolist() == [[2.0, 3.0], [10.0, 11.0]]


def test_collated_samples_are_what_the_network_takes(network, text):
    samples = []
    for index, image in enumerate(_images()):
        samples.append(
            {
                "image": image,
                "label": torch.zeros(1, *image.shape[1:]),
                "modality": "mri",
                "kind": "lesion",
                "encoded": text.encode(QUESTIONS[index], ANSWERS[index]),
                **dict.fromkeys(("geometry", "question", "answer", "key", "picture", "target"), ""),
            }
        )
    batch = collate(samples, pad_id=text.pad_id)
    with torch.no_grad():
        output = _pass(network, batch["image"], SIZES_HW_PX, batch, with_targets=True, obj_image=batch["obj_image"])
    assert output.mask_logits.shape == batch["label"].shape
    loss = PRSMedLoss({"bce": 1, "dice": 1, "ce": 0.5, "presence": 0.2, "evidence": 0.5})(output, batch)
    assert torch.isfinite(loss)
