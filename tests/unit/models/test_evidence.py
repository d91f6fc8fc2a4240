"""What the evidence summary says of a map: the moments of a known shape, and words that lean as the states do."""

import pytest
import torch

from prsmed.models.evidence import MOMENTS, EvidenceHead, WordedSummary, moments
from prsmed.types import EVIDENCE_STATES

SIDE = 20


def _offsets():
    """Offsets of the cells of a square picture from its centre, in units of its side."""
    centers = (torch.arange(SIDE) + 0.5) / SIDE - 0.5
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)[None]


def _map(top, left, height, width):
    prob = torch.zeros(1, 2, SIDE, SIDE)
    prob[:, 0, top : top + height, left : left + width] = 0.9
    return prob.flatten(2)


def test_the_moments_of_a_rectangle():
    mass, peak, x, y, distance, xx, yy, xy, scatter = moments(_map(2, 12, 4, 8), _offsets())[0, 0].tolist()
    assert mass == pytest.approx(torch.tensor(33.0).log().item(), rel=1e-4)  # log1p of 32 sure cells
    assert peak == pytest.approx(0.9)
    assert (x / 4, y / 4) == pytest.approx((0.3, -0.3), abs=1e-4)
    assert distance / 5 == pytest.approx(0.18**0.5, abs=1e-4)
    # n evenly spaced points at 1/20 have the variance (n^2 - 1) / 12 / 400.
    assert (xx / 10, yy / 10, xy / 10) == pytest.approx((63 / 4800, 15 / 4800, 0), abs=1e-5)
    assert abs(scatter) < 0.5  # one thing


def test_two_things_scatter():
    both = torch.maximum(_map(1, 1, 3, 3), _map(16, 16, 3, 3))
    assert moments(both, _offsets())[0, 0, -1] > 2


def test_half_precision_around_it_does_not_blur_the_moments():
    exact = moments(_map(2, 12, 2, 2), _offsets())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(moments(_map(2, 12, 2, 2), _offsets()), exact)


def test_a_sure_state_is_told_in_its_own_words():
    torch.manual_seed(0)
    states, kinds = torch.randn(len(EVIDENCE_STATES), 16), torch.randn(2, 16)
    summary = WordedSummary(states, kinds)
    prob, offsets = _map(2, 12, 4, 8), _offsets()
    summary.read[-1].weight.data.zero_()
    summary.read[-1].bias.data = torch.eye(len(EVIDENCE_STATES))[2] * 50
    tokens, logits = summary(prob, offsets)
    assert logits.shape == (1, 2, len(EVIDENCE_STATES)) and logits.argmax(dim=2).tolist() == [[2, 2]]
    torch.testing.assert_close(tokens[0], states[2] + kinds)


def test_words_do_not_teach_what_the_map_says():
    summary = WordedSummary(torch.randn(len(EVIDENCE_STATES), 16), torch.randn(2, 16))
    tokens, logits = summary(_map(2, 12, 4, 8), _offsets())
    tokens.sum().backward()
    assert summary.read[0].weight.grad is None and summary.states.grad is not None
    logits.sum().backward()
    assert summary.read[0].weight.grad is not None and summary.read[0].in_features == MOMENTS


def test_with_context_a_cell_knows_the_whole_picture():
    torch.manual_seed(0)
    features, offsets = torch.randn(1, 8, 16, 16), torch.zeros(1, 2, 16, 16)
    changed = features.clone()
    changed[..., 15, 15] += 5
    for layers, knows in ((0, False), (2, True)):
        head = EvidenceHead(8, cells_per_step=1, hidden=4, context_layers=layers).eval()
        there = head(features, offsets)[..., 0, 0], head(changed, offsets)[..., 0, 0]
        assert there[0].shape == (1, 2)
        assert torch.allclose(*there) is not knows


def test_with_context_places_matter():
    torch.manual_seed(0)
    head = EvidenceHead(8, cells_per_step=1, hidden=4, context_layers=1).eval()
    features, offsets = torch.ones(1, 8, 16, 16), torch.zeros(1, 2, 16, 16)
    assert not torch.allclose(head(features, offsets), head(features, offsets + 0.3))
