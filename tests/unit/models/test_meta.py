"""The papers' networks at full size, on shapes alone."""

import pytest
import torch

from prsmed.models.checkpoints import base_of
from prsmed.models.meta import ValuesBesideShapes, network_on_meta
from prsmed.types import EVIDENCE_STATES
from scripts.memory_budget import dry_run


@pytest.fixture(scope="module")
def prs_med() -> torch.nn.Module:
    return network_on_meta("prs_med", "llava_med_7b").train()


def test_only_adapters_and_what_is_around_learn(prs_med):
    learning = {name for name, parameter in prs_med.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in learning} == {"language", "fusion", "decoder", "presence"}
    assert all("lora_" in name for name in learning if name.startswith("language."))
    assert not [name for name in learning if "tower" in name], "CLIP has layers of the same names"


def test_the_adapters_have_the_papers_rank(prs_med):
    """Mistral 7B: 4096 wide, 1024 for keys and values, 32 layers; rank 16 on q, k, v and o (PRS-Med, section 6)."""
    adapters = [p for name, p in prs_med.named_parameters() if "lora_" in name]
    wide, narrow, rank, layers = 4096, 1024, 16, 32
    expected = layers * rank * (2 * (wide + wide) + 2 * (wide + narrow))
    assert sum(p.numel() for p in adapters) == expected == 13_631_488
    assert {p.dtype for p in adapters} == {torch.float32}
    assert prs_med.language.model.model.embed_tokens.weight.dtype == torch.bfloat16


def test_everything_published_belongs_to_the_base(prs_med):
    outside = {name.split(".")[0] for name in prs_med.state_dict() if name not in base_of(prs_med).names}
    assert outside == {"language", "fusion", "decoder", "presence"}
    assert not [n for n in base_of(prs_med).names if "lora_" in n or not n.startswith(("encoder.net", "language."))]


@pytest.mark.parametrize("task", ["prs_med", "medisee"])
def test_a_step_at_full_size_runs_through_forward_and_loss(task):
    network = network_on_meta(task, "llava_med_7b").train()
    loss, kept_bytes = dry_run(network, task, "llava_med_7b")
    assert loss.is_meta and loss.requires_grad
    assert 1e8 < kept_bytes < 1e10


@pytest.mark.parametrize("preset", ["small", "small_seg", "small_no_evidence"])
def test_a_summary_in_words_needs_no_weights(preset):
    """SmolLM2 is 576 wide; its words are known once its weights are fetched."""
    network = network_on_meta("prs_med", preset)
    if preset == "small_no_evidence":
        assert network.summary is None
    else:
        assert network.summary.states.shape == (len(EVIDENCE_STATES), 576)


def test_values_and_shapes_work_together():
    hidden = torch.empty(1, 4, 8, device="meta")
    chosen = torch.tensor([[False, True, True, False]])
    with ValuesBesideShapes():
        assert hidden[chosen].shape == (2, 8)
        assert int(chosen.sum()) == 2
        assert (hidden.sum(dim=2) * chosen).is_meta
