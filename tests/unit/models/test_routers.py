"""Routers: weights against values of the authors' released function (specs of this project, golden values)."""

import pytest
import torch

from prsmed.errors import RequestError
from prsmed.models.routers import CandidateRouter, gate_weights


@pytest.mark.parametrize(
    ("logits", "expected"),
    [((-6.0, 6.0), (0.002473, 0.997527)), ((0.0, 2.0), (0.362110, 0.637890)), ((6.0, 6.0), (0.5, 0.5))],
)
def test_the_released_gate(logits, expected):
    weights = gate_weights(torch.tensor([logits]), "sigmoid_l1")
    assert weights[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_gate_exists_where_every_sigmoid_underflows():
    weights = gate_weights(torch.tensor([[-200.0, -201.0]]), "sigmoid_l1")
    assert weights[0].tolist() == pytest.approx(torch.tensor([1.0, 0.0]).softmax(0).tolist(), abs=1e-6)


@pytest.mark.parametrize("gate", ["sigmoid_l1", "softmax", "mean", "hard"])
def test_weights_sum_to_one_and_weigh_the_candidates(gate):
    torch.manual_seed(0)
    router = CandidateRouter(6, 3, hidden=8, gate=gate, pick=2)
    candidates = torch.randn(4, 3, 6)
    fused, weights = router(candidates)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(4))
    torch.testing.assert_close(fused, torch.einsum("kn,knd->kd", weights, candidates))
    assert bool(list(router.parameters())) == (gate in ("sigmoid_l1", "softmax"))
    if gate == "hard":
        assert torch.equal(fused, candidates[:, 2])


def test_permuted_candidates_with_permuted_weights_fuse_alike():
    torch.manual_seed(0)
    width, order = 6, [2, 0, 1]
    router, other = CandidateRouter(width, 3, hidden=8), CandidateRouter(width, 3, hidden=8)
    columns = torch.cat([torch.arange(width) + index * width for index in order])
    with torch.no_grad():
        other.score[0].weight.copy_(router.score[0].weight[:, columns])
        other.score[0].bias.copy_(router.score[0].bias)
        other.score[2].weight.copy_(router.score[2].weight[order])
        other.score[2].bias.copy_(router.score[2].bias[order])
    candidates = torch.randn(4, 3, width)
    fused, weights = router(candidates)
    permuted, permuted_weights = other(candidates[:, order])
    torch.testing.assert_close(permuted, fused)
    torch.testing.assert_close(permuted_weights, weights[:, order])


def test_one_candidate_has_nothing_to_choose():
    router = CandidateRouter(6, 1)
    candidates = torch.randn(2, 1, 6)
    assert torch.equal(router(candidates)[0], candidates[:, 0]) and not list(router.parameters())


def test_an_unknown_gate_is_refused():
    with pytest.raises(RequestError, match="sigmoid_l1, softmax, mean, hard"):
        CandidateRouter(6, 2, gate="max")
