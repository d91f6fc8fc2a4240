"""MediSee: candidates, boxes and prompts, on a network in miniature (specs/medisee.md, section 8)."""

import pytest
import torch
import torch.nn.functional as F

from prsmed.geometry import Frame, Geometry, cxcywh_to_xyxy, mask_to_box
from prsmed.models.box_head import BoxHead
from prsmed.models.checkpoints import load_weights, save_model
from prsmed.models.lora import add_lora
from prsmed.text.encode import pad_batch
from tests.unit.small_medisee import (
    HW,
    TOKENIZER,
    gradient,
    passed,
    small_medisee,
    small_text,
    turns_of,
    two_pictures,
)


@pytest.fixture(scope="module")
def text():
    return small_text()


@pytest.fixture(scope="module")
def network():
    return small_medisee()


@pytest.fixture(scope="module")
def image():
    return two_pictures()


def test_packed_equals_separate(network, text, image):
    questions = ("show the liver", "where is bile made?", "spleen")
    turns = turns_of(text, *questions)
    with torch.no_grad():
        together = passed(network, text, [turns, turns[:1]], image, HW)
        for index, turn in enumerate(turns):
            alone = passed(network, text, [[turn]], image[:1], HW[:1])
            for name in ("mask_logits", "boxes_cxcywh", "seg_states", "seg_weights"):
                torch.testing.assert_close(together[name][index], alone[name][0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.image_states[0], alone.image_states[0], atol=1e-5, rtol=0)
    assert (together.seg_states[0] - together.seg_states[1]).abs().max() > 1e-2


def test_questions_of_one_sequence_do_not_see_each_other(network, text, image):
    with torch.no_grad():
        one = passed(network, text, [turns_of(text, "show the liver", "spleen")], image[:1], HW[:1])
        other = passed(network, text, [turns_of(text, "something quite else, and longer", "spleen")], image[:1], HW[:1])
    torch.testing.assert_close(one.seg_states[1], other.seg_states[1], atol=1e-5, rtol=0)
    assert (one.seg_states[0] - other.seg_states[0]).abs().max() > 1e-2


def test_a_mask_depends_on_the_question_and_not_on_the_answer(network, text, image):
    def states(question, answer):
        turn = [text.encode(question, answer, points=True)]
        with torch.no_grad():
            return passed(network, text, [turn], image[:1], HW[:1]).seg_states[0]

    first = states("show the liver", "the liver")
    torch.testing.assert_close(states("show the liver", "something quite else"), first, atol=1e-6, rtol=0)
    assert (states("show the spleen", "the liver") - first).abs().max() > 1e-2


def test_the_first_state_does_not_see_the_candidates_after_it(network, text, image):
    turn = text.encode("show the liver", "the liver", points=True)
    batch = pad_batch([turn], text.pad_id)
    changed = batch["input_ids"].clone()
    changed[0, turn.candidate_at + 1] = 7  # other tokens in the place of both candidates
    with torch.no_grad():
        embeds = network.encode_image(image[:1], HW[:1]).image_embeds
        one, other = (
            network.language(ids, embeds, batch["attention_mask"])[0] for ids in (batch["input_ids"], changed)
        )
    first, second = (int(at) for at in turn.candidate_at)
    assert torch.equal(one[0, first], other[0, first])
    assert (one[0, second] - other[0, second]).abs().max() > 1e-3


def test_the_box_head_starts_in_the_middle_and_learns_from_its_last_layer_on():
    torch.manual_seed(0)
    head, states = BoxHead(8, hidden=6), torch.randn(3, 8)
    assert torch.equal(head(states), torch.full((3, 4), 0.5))
    head(states).square().sum().backward()
    gradients = [float(parameter.grad.abs().sum()) for parameter in head.parameters()]
    assert gradients[:4] == [0, 0, 0, 0] and min(gradients[4:]) > 0


def test_the_mask_teaches_the_box_only_where_the_box_prompts(text, image):
    prompted, unprompted = small_medisee(), small_medisee(box_prompt=False)
    mask_only = {"bce": 1.0, "dice": 1.0}
    assert gradient(prompted, text, image, mask_only, prompted.heads.box_head) > 0
    assert gradient(unprompted, text, image, mask_only, unprompted.heads.box_head) == 0
    assert gradient(unprompted, text, image, {"l1": 1.0}, unprompted.heads.box_head) > 0


def test_the_box_router_learns_from_the_second_step_on(text, image):
    network = small_medisee(box_last=False)
    boxes = {"l1": 1.0, "giou": 1.0}
    assert gradient(network, text, image, boxes, network.heads.box_router) == 0
    torch.optim.SGD(network.parameters(), lr=0.5).step()
    assert gradient(network, text, image, boxes, network.heads.box_router) > 0


def test_every_trained_part_gets_a_gradient_from_the_whole_loss(text, image):
    network = small_medisee()
    weights = {"ce": 1.0, "bce": 2.0, "dice": 0.5, "l1": 1.0, "giou": 1.0}
    parts = (
        "encoder",
        "heads.seg_router",
        "heads.box_router",
        "heads.box_head",
        "heads.project",
        "language.projector",
        "prompting.decoder",
    )
    for name in parts:
        assert gradient(network, text, image, weights, network.get_submodule(name)) > 0, name
    rows = network.language.added_in.grad
    assert (rows.abs().sum(dim=1) > 0).all()
    assert all(parameter.grad is None for parameter in network.prompting.prompts.parameters())


def test_boxes_do_not_suffer_from_bf16(network, text, image):
    with torch.no_grad():
        looked = network.encode_image(image, HW)
        states = torch.randn(2, 2, network.language.hidden_width)
        arguments = (looked, states, torch.tensor([0, 1]), HW, (32, 32))
        exact = network.point(*arguments)
        box_px = torch.tensor([[3.0, 5.0, 17.0, 30.0]])
        tokens = network.prompting.embed_boxes(box_px)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = network.point(*arguments)
            assert torch.equal(network.prompting.embed_boxes(box_px), tokens)
    sides_px = 1024  # of the largest frame there is
    assert (exact.boxes_cxcywh - low.boxes_cxcywh).abs().max() * sides_px < 0.1
    assert low.mask_logits.dtype == torch.float32
    # Probabilities of masks may differ by what eight bits of mantissa leave after a few layers.
    assert (low.mask_logits.sigmoid() - exact.mask_logits.sigmoid()).abs().max() < 0.02


@pytest.mark.parametrize("mode", ["pad", "squash"])
@pytest.mark.parametrize("hw_px", [(512, 1024), (1024, 512), (333, 777)])
def test_a_box_goes_to_the_prompt_frame_and_back(hw_px, mode):
    height, width = hw_px
    mask = torch.zeros(hw_px, dtype=torch.bool).numpy()
    mask[int(0.8 * height) - 20 : int(0.8 * height) + 20, width // 5 : width // 3] = True
    box_px = torch.tensor(mask_to_box(mask), dtype=torch.float32)
    scale = 256 / max(hw_px)
    canonical = (round(height * scale), round(width * scale))
    geometry, frame = Geometry(hw_px, canonical), Frame(256, mode)
    share = box_px / torch.tensor([width, height, width, height])
    prompt_px = share * frame.content_xyxy_px([canonical])[0]
    back = geometry.box_to_slice(frame.box_to_canonical(prompt_px.tolist(), canonical))
    torch.testing.assert_close(torch.tensor(back), box_px, atol=0.5, rtol=0)
    rows = 256 if mode == "squash" else canonical[0]
    center_y_px = float(prompt_px[1] + prompt_px[3]) / 2
    assert center_y_px == pytest.approx(int(0.8 * height) / height * rows, abs=1e-3)


def test_the_decoder_is_prompted_where_the_box_is(network, image, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        network.prompting,
        "forward",
        lambda features, **prompts: (seen.update(prompts) or torch.zeros(2, 1, 32, 32), None),
    )
    with torch.no_grad():
        looked = network.encode_image(image, HW)
        states = torch.randn(2, 2, network.language.hidden_width)
        output = network.point(looked, states, torch.tensor([0, 1]), HW, (32, 32))
    shares = cxcywh_to_xyxy(output.boxes_cxcywh)
    torch.testing.assert_close(seen["boxes_xyxy_px"][0], shares[0] * 32)
    torch.testing.assert_close(seen["boxes_xyxy_px"][1], shares[1] * torch.tensor([32.0, 20.0, 32.0, 20.0]))


@pytest.mark.parametrize(
    "heads",
    [
        {"candidates": 1, "box_head": False, "box_prompt": False},
        {"candidates": 1},
        {"gate": "hard"},
        {"gate": "mean"},
        {"gate": "softmax"},
        {"box_prompt": False},
        {"candidates": 3},
        {"coarse_width": 16},
    ],
)
def test_every_variant_runs(heads, image):
    variant, text = small_medisee(**heads), small_text(candidates=heads.get("candidates", 2))
    with torch.no_grad():
        output = passed(variant, text, [turns_of(text, "show the liver")], image[:1], HW[:1])
    assert output.mask_logits.shape == (1, 1, 32, 32)
    assert (output.boxes_cxcywh is None) == (heads.get("box_head") is False)
    assert (output.coarse_logits is None) == ("coarse_width" not in heads)
    if heads.get("gate") == "hard":
        assert output.seg_weights.tolist() == [[1, 0]] and output.box_weights.tolist() == [[0, 1]]


def test_masks_without_an_object_are_no_trouble(network, text, image):
    turns = [[text.encode("show the liver", "no liver")], [text.encode("spleen", "no spleen")]]
    with torch.no_grad():
        output = passed(network, text, turns, image, HW)
    assert output.mask_logits.shape == (0, 1, 32, 32) and output.text_logits.shape[0] > 0


def _ask(network, text, image, *questions, mode, max_new_tokens=5, prefix=None, **more):
    batch = pad_batch([text.encode(question) for question in questions], text.pad_id)
    network.mode = mode
    return network.ask(
        image,
        HW,
        batch["input_ids"],
        batch["attention_mask"],
        obj_image=torch.arange(len(questions)) % len(image),
        end_id=text.end_id,
        max_new_tokens=max_new_tokens,
        prefix=prefix,
        **more,
    )


def _speaks_candidates(network, text, *, first: float) -> None:
    """Make the network's greedy answer begin with the candidates (or never, where `first` is very negative)."""

    original = type(network.language).logits

    def logits(hidden):
        raw = original(network.language, hidden)
        raw[..., text.candidate_ids[0]] += first
        return raw

    network.language.logits = logits


def test_forced_is_the_training_pass(network, text, image):
    questions = ("show the liver", "and a longer question about the spleen")
    seen = _ask(network, text, image, *questions, mode="forced")
    with torch.no_grad():
        trained = passed(network, text, [[turn] for turn in turns_of(text, *questions)], image, HW)
    torch.testing.assert_close(seen.mask_logits, trained.mask_logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.boxes_xyxy_norm, cxcywh_to_xyxy(trained.boxes_cxcywh), atol=1e-5, rtol=0)
    assert seen.presence_logit is None and seen.ids.shape[0] == 2
    with torch.no_grad():
        embeds = network.encode_image(image, HW).image_embeds
    prefix = network.language.read_prefix(text.prefix_ids.expand(2, -1), embeds)
    for mode in ("forced", "free", "forced"):  # it stays as it is
        known, anew = (_ask(network, text, image, *questions, mode=mode, prefix=one) for one in (prefix, None))
        torch.testing.assert_close(known.mask_logits, anew.mask_logits, atol=1e-5, rtol=0)
        assert torch.equal(known.ids, anew.ids)
    silent = _ask(network, text, image, *questions, mode="forced", max_new_tokens=0)
    torch.testing.assert_close(silent.mask_logits, seen.mask_logits, atol=1e-5, rtol=0)
    assert silent.ids is None


def test_fifty_questions_at_once(network, text, image):
    questions = ["show the liver", "spleen", *(f"which organ is number {number}?" for number in range(48))]
    with torch.no_grad():
        packed = passed(network, text, [turns_of(text, *questions)], image[:1], HW[:1])
        first = passed(network, text, [turns_of(text, questions[0])], image[:1], HW[:1])
    assert packed.mask_logits.shape[0] == 50 and packed.mask_logits.isfinite().all()
    torch.testing.assert_close(packed.mask_logits[0], first.mask_logits[0], atol=1e-5, rtol=0)
    asked = _ask(network, text, image, *questions, mode="forced", max_new_tokens=0)
    alone = _ask(network, text, image, *questions[:2], mode="forced", max_new_tokens=0)
    assert asked.mask_logits.shape[0] == 50
    torch.testing.assert_close(asked.mask_logits[:2], alone.mask_logits, atol=1e-5, rtol=0)


def test_free_without_candidates_points_at_nothing(text, image):
    network = small_medisee()
    _speaks_candidates(network, text, first=-1e4)
    seen = _ask(network, text, image, "show the liver", "spleen", mode="free")
    assert (seen.mask_logits == -torch.inf).all() and seen.boxes_xyxy_norm.isnan().all()
    assert (seen.presence_logit < 0).all()


def test_free_and_forced_agree_where_the_model_points(text, image):
    network = small_medisee()
    original = type(network.language).logits
    state = {"calls": 0}

    def logits(hidden):
        raw = original(network.language, hidden)
        step, state["calls"] = state["calls"], state["calls"] + 1
        if step < 2:  # the first row points, the second says something else
            raw[0, ..., text.candidate_ids[step]] += 1e4
            raw[1, ..., text.candidate_ids[0]] -= 1e4
        return raw

    network.language.logits = logits
    free = _ask(network, text, image, "show the liver", "and a longer question about the spleen", mode="free")
    del network.language.logits
    forced = _ask(network, text, image, "show the liver", "and a longer question about the spleen", mode="forced")
    torch.testing.assert_close(free.mask_logits[0], forced.mask_logits[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(free.boxes_xyxy_norm[0], forced.boxes_xyxy_norm[0], atol=1e-5, rtol=0)
    assert (free.mask_logits[1] == -torch.inf).all() and free.boxes_xyxy_norm[1].isnan().all()
    assert free.ids[0, :2].tolist() == text.candidate_ids
    assert torch.equal(free.ids[0], forced.ids[0])


def test_weights_come_back_with_adapters_and_new_words(tmp_path, text, image):
    def adapted(seed):
        made = small_medisee(seed=seed)
        add_lora(made.language.model, rank=2, targets=("q_proj", "v_proj"))
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        return made.eval()

    one, other = adapted(0), adapted(1)
    folder = tmp_path / "model"
    save_model(folder, one, {"task": "medisee", "preset": "miniature"}, tokenizer_file=TOKENIZER)
    load_weights(folder, other)
    turns = [turns_of(text, "show the liver")]
    with torch.no_grad():
        first, second = (passed(made, text, turns, image[:1], HW[:1]) for made in (one, other))
    for name in ("mask_logits", "boxes_cxcywh", "text_logits"):
        assert torch.equal(first[name], second[name]), name
    assert torch.equal(one.language.added_in, other.language.added_in)
    assert F.softmax(first.text_logits, dim=-1).shape[-1] == len(text.tokenizer) + 2
