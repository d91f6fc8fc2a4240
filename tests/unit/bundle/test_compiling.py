"""What `compile` does to a network, and to what is not compiled: names, numbers, answers, errors.

The graph is captured as for the C++ compiler, then run by `aot_eager`: inductor's own code takes half a minute of CPU
for this miniature, too much here; `scripts.benchmark_step --compiled` prints both losses of `tiny`.
"""

from functools import partialmethod

import ignite.distributed as idist
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from bundle.compiling import compile_parts
from bundle.engines import AskInferer, PassInferer
from prsmed.errors import RequestError
from prsmed.geometry import Geometry
from prsmed.text.encode import pad_batch
from tests.unit.small_networks import small_network, small_text

TEXT = small_text()
SIDE_PX = 32


@pytest.fixture
def captured(monkeypatch):
    """Parts are captured but not translated to C++."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()
    yield counters["stats"]
    torch._dynamo.reset()


def _batch(answer: str | None) -> dict:
    encoded = [TEXT.encode("Where is the polyp?", answer)] * 2
    return {
        "image": torch.rand(2, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(0)),
        "geometry": [Geometry((SIDE_PX, SIDE_PX), (SIDE_PX, SIDE_PX))] * 2,
        "obj_image": torch.arange(2),
        **pad_batch(encoded, TEXT.pad_id),
    }


def _step(network: nn.Module, answer: str) -> tuple[float, dict[str, torch.Tensor]]:
    network.train().zero_grad()
    output = PassInferer()(_batch(answer), network)
    loss = output.mask_logits.square().mean() + output.text_logits.square().mean() + output.presence_logit.sum()
    loss.backward()
    return float(loss.detach()), {
        name: parameter.grad.clone() for name, parameter in network.named_parameters() if parameter.grad is not None
    }


def test_a_compiled_step_has_the_numbers_and_names_of_a_plain_one(captured):
    network = small_network(len(TEXT.tokenizer))
    first = {name: value.clone() for name, value in network.state_dict().items()}
    answers = ("It lies at the top.", "It lies in the upper left part of the image.")
    expected = [_step(network, answer) for answer in answers]
    network.load_state_dict(first)  # batch norm counts what it sees
    compile_parts(network, enabled=True, encoder=False)  # capturing an encoder takes three times as long
    for answer, (loss, gradients) in zip(answers, expected, strict=True):
        compiled_loss, compiled_gradients = _step(network, answer)
        assert compiled_loss == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(compiled_gradients, gradients, rtol=1e-3, atol=1e-4)
    assert captured["unique_graphs"] >= 2, "a layer, for two lengths"
    assert list(network.state_dict()) == list(first)

    graphs = captured["unique_graphs"]
    asked = AskInferer(TEXT)(_batch(None), network.eval())
    assert captured["unique_graphs"] == graphs, "answers are not compiled"
    plain = small_network(len(TEXT.tokenizer)).eval()
    plain.load_state_dict(network.state_dict())
    told = AskInferer(TEXT)(_batch(None), plain)
    torch.testing.assert_close(asked.mask_prob, told.mask_prob)
    assert asked.texts == told.texts


def test_an_encoder_whose_maps_are_kept_is_left_alone():
    network = small_network(len(TEXT.tokenizer))
    compile_parts(network, enabled=True, encoder=False)
    assert network.encoder._compiled_call_impl is None
    assert all(layer._compiled_call_impl is not None for layer in network.language.model.model.layers)


def test_without_a_compiler_it_says_so_before_the_first_step(monkeypatch):
    network = small_network(len(TEXT.tokenizer))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RequestError, match=r"no C\+\+ compiler \(no-such-compiler\)"):
        compile_parts(network, enabled=True)
    compile_parts(network, enabled=False)
    assert network.encoder._compiled_call_impl is None


def test_several_processes_and_other_networks_are_refused(monkeypatch):
    with pytest.raises(RequestError, match="Conv2d has no language model"):
        compile_parts(nn.Conv2d(1, 1, 1), enabled=True)
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    with pytest.raises(RequestError, match="one process"):
        compile_parts(small_network(len(TEXT.tokenizer)), enabled=True)
