"""MediSee's losses against values of the authors' released functions (specs of this project) and their bounds."""

import math

import pytest
import torch

from prsmed.errors import RequestError
from prsmed.losses import (
    MediSeeLoss,
    bce_of_objects,
    box_losses,
    dice_of_objects,
    jensen_shannon,
    mean_of_objects,
    recall_losses,
    similarity_losses,
    similarity_maps,
)
from prsmed.models.medisee import MediSeeOutput

LOGITS = torch.linspace(-3, 3, 32).view(2, 1, 4, 4)
TARGET = (torch.arange(32).view(2, 1, 4, 4) % 3 == 0).float()
BOXES = torch.tensor([[0.5, 0.5, 0.4, 0.2], [0.3, 0.6, 0.2, 0.2]])
TRUE_BOXES = torch.tensor([[0.3, 0.4, 0.7, 0.6], [0.25, 0.45, 0.5, 0.7]])


def test_the_released_mask_losses():
    valid = torch.ones_like(TARGET)
    assert float(bce_of_objects(LOGITS, TARGET, valid).mean()) == pytest.approx(1.058385, abs=1e-6)
    assert float(dice_of_objects(LOGITS.sigmoid(), TARGET).mean()) == pytest.approx(0.631642, abs=1e-6)


def test_the_released_box_losses():
    l1, giou = box_losses(BOXES, TRUE_BOXES)
    assert float(l1) == pytest.approx(0.025, abs=1e-6)
    assert float(giou) == pytest.approx(0.309770, abs=2e-6)  # without their 1e-6 in the denominators


def test_the_whole_loss_is_the_weighted_sum():
    weights = {"ce": 1.0, "bce": 2.0, "dice": 0.5, "l1": 1.0, "giou": 1.0}
    loss = MediSeeLoss(weights)
    batch = {
        "label": TARGET,
        "valid": torch.ones_like(TARGET),
        "boxes_xyxy_norm": TRUE_BOXES,
        "obj_image": torch.tensor([0, 1]),
        "target_ids": torch.tensor([[-100, 1], [-100, 0]]),
    }
    output = MediSeeOutput(mask_logits=LOGITS, boxes_cxcywh=BOXES, text_logits=torch.zeros(2, 4))
    # cross-entropy of four even logits is ln 4
    expected = math.log(4) + 2 * 1.058385 + 0.5 * 0.631642 + 0.025 + 0.309770
    assert float(loss(output, batch)) == pytest.approx(expected, abs=1e-5)
    assert set(loss.terms) == set(weights)
    output.coarse_logits = LOGITS
    with_coarse = MediSeeLoss({**weights, "coarse": 2.0})
    assert float(with_coarse(output, batch)) == pytest.approx(expected + 2 * (1.058385 + 0.631642), abs=1e-5)
    with pytest.raises(RequestError, match="has weight 0"):
        MediSeeLoss({"js": 1.0})(output, batch)
    with pytest.raises(RequestError, match="presence unknown"):
        MediSeeLoss({"presence": 1.0})


def test_recall_tells_the_own_name_from_the_others():
    names = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])[[0, 1, 1]].requires_grad_(True)
    queries = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    # products over the root of 4, and two different names however often each is asked for
    expected = torch.tensor([-2.0, -1.0, 1.0]).exp().log1p()
    torch.testing.assert_close(recall_losses(queries, names), expected)
    torch.testing.assert_close(recall_losses(queries, names + 1e-7), expected)
    output = MediSeeOutput(queries=queries.requires_grad_(True), names=names)
    batch = {"label": torch.zeros(3, 1, 2, 2), "valid": torch.zeros(3, 1, 2, 2), "target_ids": torch.zeros(1, 2).long()}
    loss = MediSeeLoss({"recall": 1.0})(output, batch)
    assert loss.item() == pytest.approx(expected.mean().item())
    loss.backward()
    assert names.grad is None and queries.grad.abs().sum() > 0
    assert len(recall_losses(queries[:0], names[:0])) == 0


def test_what_is_not_there_should_light_up_no_cell():
    peaks = torch.tensor([0.0, -3.0]).requires_grad_(True)
    batch = {"label": torch.zeros(0, 1, 2, 2), "valid": torch.zeros(0, 1, 2, 2), "target_ids": torch.zeros(1, 2).long()}
    loss = MediSeeLoss({"absent": 1.0})(MediSeeOutput(absent_peaks=peaks), batch)
    assert loss.item() == pytest.approx((0.693147 + 0.048587) / 2, abs=1e-5)
    loss.backward()
    assert (peaks.grad > 0).all()
    present = {**batch, "label": torch.zeros(2, 1, 2, 2), "valid": torch.zeros(2, 1, 2, 2)}
    diluted = MediSeeLoss({"absent": 1.0})(MediSeeOutput(absent_peaks=peaks), present)
    assert diluted.item() == pytest.approx(loss.item() / 2)
    assert MediSeeLoss({"absent": 1.0})(MediSeeOutput(absent_peaks=peaks[:0]), batch) == 0


def test_an_object_without_a_box_or_a_mask_does_not_count():
    unknown = torch.full_like(TRUE_BOXES, torch.nan)
    partly = torch.stack([TRUE_BOXES[0], unknown[1]])
    boxes = BOXES.clone().requires_grad_(True)
    l1, giou = box_losses(boxes, partly)
    alone = box_losses(BOXES[:1], TRUE_BOXES[:1])
    torch.testing.assert_close((l1, giou), alone)
    (l1 + giou).backward()
    assert boxes.grad[0].abs().sum() > 0 and torch.equal(boxes.grad[1], torch.zeros(4))
    assert [float(term) for term in box_losses(BOXES, unknown)] == [0, 0]

    valid = torch.ones_like(TARGET)
    valid[1] = 0
    each = bce_of_objects(LOGITS, TARGET, valid)
    assert float(mean_of_objects(each, torch.tensor([1.0, 0.0]))) == pytest.approx(float(each[0]))


def test_objects_weigh_alike_however_they_are_spread_over_images():
    each = torch.tensor([1.0, 2.0, 6.0])
    assert float(mean_of_objects(each, torch.ones(3))) == 3.0
    assert float(mean_of_objects(each, torch.zeros(3))) == 0.0


def test_objects_of_all_processes_are_counted(monkeypatch):
    def add_three(count):  # another process holds three objects
        count += 3

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", add_three)
    # one object of four, times two processes whose gradients are averaged
    assert float(mean_of_objects(torch.tensor([8.0]), torch.ones(1))) == pytest.approx(8.0 / 4 * 2)


def test_jensen_shannon_is_symmetric_bounded_and_finite():
    torch.manual_seed(0)
    p, q = torch.randn(3, 7).log_softmax(1), torch.randn(3, 7).log_softmax(1)
    torch.testing.assert_close(jensen_shannon(p, q), jensen_shannon(q, p))
    torch.testing.assert_close(jensen_shannon(p, p), torch.zeros(3), atol=1e-7, rtol=0)
    here, there = torch.tensor([[1e3, -1e3]]), torch.tensor([[-1e3, 1e3]])
    far = jensen_shannon(here.log_softmax(1), there.log_softmax(1))
    assert float(far) == pytest.approx(math.log(2), abs=1e-6)


def test_similarity_losses_teach_the_student_alone():
    torch.manual_seed(0)
    student = torch.randn(2, 9, requires_grad=True)
    teacher = torch.randn(2, 9, requires_grad=True)
    js, mse = similarity_losses(student * 1e3, teacher)
    (js + mse).backward()
    assert torch.isfinite(student.grad).all() and student.grad.abs().sum() > 0 and teacher.grad is None
    same = similarity_losses(teacher, teacher)
    assert [float(term.detach()) for term in same] == pytest.approx([0, 0], abs=1e-6)


def test_mse_is_on_maps_stretched_to_one():
    # both rise from 0 to 1 after stretching; the third cell differs by a half
    maps, teacher = torch.tensor([[0.0, 4.0, 4.0]]), torch.tensor([[10.0, 12.0, 11.0]])
    assert float(similarity_losses(maps, teacher)[1]) == pytest.approx(0.25 / 3)


def test_similarity_maps_are_scaled_dot_products():
    state, image = torch.tensor([[3.0, 4.0, 0.0, 0.0]]), torch.eye(4)[None]
    assert similarity_maps(state, image)[0].tolist() == [1.5, 2.0, 0.0, 0.0]  # divided by the root of four


def test_the_similarity_terms_pair_each_teacher_with_its_object():
    torch.manual_seed(0)
    loss = MediSeeLoss({"js": 2.0, "mse": 1.0})
    states, image = torch.randn(3, 4), torch.randn(2, 5, 4)
    batch = {
        "label": torch.zeros(3, 1, 2, 2),
        "valid": torch.ones(3, 1, 2, 2),
        "obj_image": torch.tensor([0, 0, 1]),
        "target_ids": torch.tensor([[-100, 1]]),
        "teacher_of": torch.tensor([2, 0]),
    }
    output = MediSeeOutput(
        mask_logits=torch.zeros(3, 1, 2, 2),
        text_logits=torch.zeros(1, 4),
        seg_states=states,
        teacher_states=states[[2, 0]],  # each teacher says what its object says
        image_states=image,
    )
    loss(output, batch)
    assert float(loss.terms["js"]) == pytest.approx(0, abs=1e-6)
    output.teacher_states = states[[0, 2]]
    loss(output, batch)
    assert float(loss.terms["js"]) > 1e-3
