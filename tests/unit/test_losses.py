"""The loss, term by term, against values worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from prsmed.errors import RequestError
from prsmed.losses import TERMS, PRSMedLoss, dice_loss
from prsmed.models.prs_med import PRSMedOutput

HALF = math.log(2)  # BCE of probability one half


def _softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def _batch(label, valid=None, *, present, target_ids=None):
    return {
        "label": label,
        "valid": torch.ones_like(label) if valid is None else valid,
        "present": torch.tensor(present),
        "kind_index": torch.arange(len(present)) % 2,
        "state_index": torch.arange(len(present)) % 2,
        "obj_image": torch.arange(len(present)),
        "target_ids": torch.full((len(present), 3), -100) if target_ids is None else target_ids,
    }


def _output(mask_logits, presence, **more):
    return PRSMedOutput(mask_logits=mask_logits, presence_logit=torch.tensor(presence), **more)


def _loss(**weights):
    return PRSMedLoss(weights)


def test_bce_of_the_mask_and_of_presence():
    label = torch.tensor([[[[1.0, 0.0]]], [[[0.0, 0.0]]]])
    logits = torch.tensor([[[[2.0, 0.0]]], [[[0.0, -3.0]]]])
    loss = _loss(bce=1.0)
    value = loss(_output(logits, [1.5, 1.5]), _batch(label, present=[1.0, 0.0]))
    first = (_softplus(-2) + HALF) / 2  # -log sigmoid(2), and -log(1 - sigmoid(0))
    second = (HALF + _softplus(-3)) / 2
    assert float(value) == pytest.approx((first + second) / 2, abs=1e-6)
    assert float(loss.terms["presence"]) == pytest.approx((_softplus(-1.5) + _softplus(1.5)) / 2, abs=1e-6)


def test_soft_dice_is_one_smoothed_ratio_per_object():
    prob = torch.tensor([[[[1.0, 0.5], [0.0, 0.0]]]])
    label = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    # 1 - (2 * 1.5 + 1) / (1.5 + 2 + 1)
    assert float(dice_loss(prob, label, torch.ones(1))) == pytest.approx(1 - 4 / 4.5)
    assert float(dice_loss(label, label, torch.ones(1))) == 0


def test_absent_objects_carry_no_dice():
    label = torch.zeros(2, 1, 2, 2)
    label[0] = 1
    logits = torch.randn(2, 1, 2, 2, requires_grad=True)
    loss = _loss(dice=1.0)(_output(logits, [0.0, 0.0]), _batch(label, present=[1.0, 0.0]))
    prob = logits[0].sigmoid()
    expected = 1 - (2 * prob.sum() + 1) / (prob.sum() + 4 + 1)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert (logits.grad[1] == 0).all() and (logits.grad[0] != 0).all()
    empty = _loss(dice=1.0)(_output(torch.randn(1, 1, 2, 2), [0.0]), _batch(label[1:], present=[0.0]))
    assert float(empty) == 0


def test_padding_has_no_part_in_any_term():
    torch.manual_seed(0)
    label = torch.zeros(2, 1, 4, 4)
    label[:, :, :2, :2] = 1
    valid = torch.zeros_like(label)
    valid[0, :, :3], valid[1] = 1, 1
    logits, evidence = torch.randn(2, 1, 4, 4), torch.randn(2, 2, 4, 4)
    loss = _loss(bce=1.0, dice=1.0, evidence=1.0)
    batch = _batch(label, valid, present=[1.0, 1.0])
    value = loss(_output(logits, [0.0, 0.0], evidence_logits=evidence), batch)
    logits[0, :, 3:], evidence[0, :, 3:], label[0, :, 3:] = 50, 50, 1
    assert torch.equal(loss(_output(logits, [0.0, 0.0], evidence_logits=evidence), batch), value)
    cropped = _loss(bce=1.0, dice=1.0)(_output(logits[:1, :, :3], [0.0]), _batch(label[:1, :, :3], present=[1.0]))
    whole = _loss(bce=1.0, dice=1.0)(_output(logits[1:], [0.0]), _batch(label[1:], present=[1.0]))
    both = _loss(bce=1.0, dice=1.0)(_output(logits, [0.0, 0.0]), batch)
    torch.testing.assert_close(both, (cropped + whole) / 2)


def test_evidence_is_judged_on_the_kind_and_image_that_were_asked_about():
    evidence = torch.zeros(1, 2, 1, 2)
    evidence[0, 1] = torch.tensor([[2.0, -2.0]])  # the organ's channel
    label = torch.tensor([[[[1.0, 0.0]]], [[[1.0, 0.0]]]])
    batch = {**_batch(label, present=[1.0, 1.0]), "obj_image": torch.zeros(2, dtype=torch.long)}
    loss = _loss(evidence=1.0)
    value = loss(_output(torch.zeros(2, 1, 1, 2), [0.0, 0.0], evidence_logits=evidence), batch)
    assert float(value) == pytest.approx((HALF + _softplus(-2)) / 2, abs=1e-6)


def test_what_such_a_picture_cannot_show_says_nothing_of_its_evidence():
    torch.manual_seed(0)
    evidence, states, label = torch.randn(2, 2, 2, 2), torch.randn(2, 2, 7), torch.zeros(2, 1, 2, 2)
    foreign = {**_batch(label, present=[0.0, 0.0]), "state_index": torch.tensor([3, -100])}
    output = _output(torch.zeros(2, 1, 2, 2), [0.0, 0.0], evidence_logits=evidence, state_logits=states)
    loss = _loss(evidence=1.0, zone=1.0)
    value = loss(output, foreign)
    wanted = F.cross_entropy(states[0, 0], torch.tensor(3)) + F.softplus(evidence[0, 0]).mean()
    torch.testing.assert_close(value, wanted)


def test_cross_entropy_is_torchs_over_the_answer_tokens():
    torch.manual_seed(0)
    target_ids = torch.tensor([[-100, 3, 1], [-100, -100, 0]])
    logits = torch.randn(3, 5)
    loss = _loss(ce=0.5)
    batch = _batch(torch.zeros(2, 1, 2, 2), present=[0.0, 0.0], target_ids=target_ids)
    value = loss(_output(torch.zeros(2, 1, 2, 2), [0.0, 0.0], text_logits=logits), batch)
    expected = F.cross_entropy(logits, torch.tensor([3, 1, 0]))
    assert float(value) == pytest.approx(0.5 * float(expected), rel=1e-6)
    rows = zip(logits.tolist(), (3, 1, 0), strict=True)
    by_hand = sum(math.log(sum(math.exp(x) for x in row)) - row[k] for row, k in rows) / 3
    assert float(expected) == pytest.approx(by_hand, rel=1e-5)


def test_the_loss_is_the_weighted_sum_of_its_terms():
    torch.manual_seed(0)
    weights = dict(zip(TERMS, (1.0, 2.0, 0.5, 0.2, 0.3, 0.4), strict=True))
    loss = PRSMedLoss(weights)
    label = (torch.rand(2, 1, 4, 4) > 0.5).float()
    output = _output(
        torch.randn(2, 1, 4, 4),
        [0.3, -0.4],
        evidence_logits=torch.randn(2, 2, 4, 4),
        state_logits=torch.randn(2, 2, 7),
        text_logits=torch.randn(4, 6),
    )
    batch = _batch(label, present=[1.0, 1.0], target_ids=torch.tensor([[-100, 1, 2], [-100, 3, 5]]))
    value = loss(output, batch)
    assert set(loss.terms) == set(TERMS) and not any(term.requires_grad for term in loss.terms.values())
    assert float(value) == pytest.approx(sum(weights[name] * float(loss.terms[name]) for name in TERMS), rel=1e-6)


def test_half_precision_outputs_are_summed_in_float32():
    label = torch.ones(1, 1, 2, 2)
    output = _output(torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16), [0.0])
    assert _loss(bce=1.0)(output, _batch(label, present=[1.0])).dtype == torch.float32


def test_unknown_weights_are_refused():
    with pytest.raises(RequestError, match="loss_weights: focal unknown; the terms are bce, dice"):
        PRSMedLoss({"bce": 1.0, "focal": 1.0})
