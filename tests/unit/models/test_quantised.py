"""Language models in 8 and 4 bits, on the CPU: rows of the table, on a generated LLaVA in miniature."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.optim import AdamW
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, MistralConfig
from transformers.utils import is_bitsandbytes_available

from bundle.engines import PassInferer, build_trainable
from prsmed.errors import RequestError
from prsmed.losses import PRSMedLoss
from prsmed.models import llava
from prsmed.models.checkpoints import base_of, save_model, verified_file
from prsmed.models.llava import LlavaBackbone, load_llava
from prsmed.models.lora import merge_lora
from prsmed.models.presets import PRESETS, build_network, load_network
from prsmed.models.prs_med import PRSMed
from tests.unit.small_networks import ROW, TOKENIZER, random_batch

SIDE_PX, WIDTH, LAYERS, IMAGE_TOKENS, VOCAB = 32, 128, 2, 4, 64
PROJECTIONS = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
# The 16 numbers of NF4: Dettmers et al. 2023, QLoRA, appendix E.
NF4 = torch.tensor(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
)  # fmt: skip

with_bitsandbytes = pytest.mark.skipif(
    not is_bitsandbytes_available("0.47.0"),
    reason="bitsandbytes 0.47 or newer is not installed; pip install 'prsmed[quantised]'",
)
both_widths = pytest.mark.parametrize("bits", [8, 4])
Build = Callable[..., PRSMed]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A cache whose LLaVA-Med is a miniature with outputs as large as inputs; its layers hold rows of two blocks."""
    folder = tmp_path_factory.mktemp("cache")
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    words = MistralConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=None,
    )  # fmt: skip
    torch.manual_seed(0)
    network = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=words))
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    base = folder / "bases" / "llava_med_7b"
    network.save_pretrained(base)
    (base / "base.json").write_text(json.dumps({"source": {"sha256": "ab" * 32}, "files": {}}))
    return folder


@pytest.fixture
def build(cache, monkeypatch) -> Build:
    """Makes the network of a row in miniature; `bits` chooses between the two published rows."""
    monkeypatch.setenv("PRSMED_CACHE", str(cache))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # else weights would be loaded onto the GPU
    for bits in (4, 8):
        language = PRESETS["prs_med", f"llava_med_7b_{bits}bit"]["language"]
        small = {"image_tokens": IMAGE_TOKENS, "fusion": {**ROW["fusion"], "evidence_cells": 0}, "language": language}
        monkeypatch.setitem(PRESETS, ("prs_med", f"in_{bits}_bits"), {**ROW, **small})

    def build(bits: int, **options: object) -> PRSMed:
        text = SimpleNamespace(tokenizer=range(VOCAB))
        return build_trainable("prs_med", f"in_{bits}_bits", text=text, device="cpu", seed=0, **options)

    return build


def _batch() -> dict:
    return random_batch(SIDE_PX, VOCAB, image_tokens=IMAGE_TOKENS, tokens=16, prompt_tokens=11)


def _hidden(backbone: LlavaBackbone) -> torch.Tensor:
    batch = _batch()
    with torch.no_grad():
        seen = backbone.look(batch["image"], [(SIDE_PX, SIDE_PX)] * 2)
        return backbone(batch["input_ids"], seen, batch["attention_mask"])[0]


def _answers(network: PRSMed) -> list[torch.Tensor]:
    with torch.no_grad():
        output = PassInferer()(_batch(), network.eval())
    return [output.mask_logits, output.presence_logit, output.text_logits]


def _gradients(network: PRSMed) -> dict[str, torch.Tensor]:
    """Of a training step's loss, as training computes it, with the same dropout every time."""
    torch.manual_seed(0)
    network.train().zero_grad()
    loss = PRSMedLoss({"bce": 1.0, "dice": 1.0, "ce": 0.5, "presence": 0.5})(PassInferer()(_batch(), network), _batch())
    loss.backward()
    learning = [(name, one) for name, one in network.named_parameters() if one.requires_grad]
    return {name: one.grad.clone() for name, one in learning if name.startswith("language.")}


def _copied(network: PRSMed) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def _moved(network: PRSMed) -> PRSMed:
    """Adapters with values, as after training; new ones add nothing."""
    rng = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=rng)
    return network


def _rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """The nearest weight of what can be stored, written out: 127 steps a row, or NF4 in blocks of 64."""
    if bits == 8:
        scale = weight.abs().amax(dim=1, keepdim=True)
        return (weight / scale * 127).round() * scale / 127
    blocks = weight.reshape(-1, 64)
    scale = blocks.abs().amax(dim=1, keepdim=True)
    return (NF4[(blocks[..., None] / scale[..., None] - NF4).abs().argmin(dim=-1)] * scale).view_as(weight)


def _relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@with_bitsandbytes
@both_widths
def test_the_language_models_layers_and_nothing_else_are_small(build, bits):
    """A float32 scale belongs to each row in 8 bits (LLM.int8()), to 64 weights in 4 (QLoRA, section 3)."""
    network = build(bits)
    kind = "Linear4bit" if bits == 4 else "Linear8bitLt"
    quantised = {name for name, module in network.named_modules() if type(module).__name__ == kind}
    layers = [f"language.model.model.layers.{layer}.{name}" for layer in range(LAYERS) for name in PROJECTIONS]
    assert quantised == {f"{name}.base_layer" if "self_attn" in name else name for name in layers}
    state = network.state_dict()
    for name in quantised:
        module = network.get_submodule(name)
        count = module.in_features * module.out_features
        assert state[f"{name}.weight"].nbytes == count * bits // 8
        scales = state[f"{name}.weight.absmax" if bits == 4 else f"{name}.SCB"]
        assert scales.nbytes == (4 * count // 64 if bits == 4 else 4 * module.out_features)
    assert network.language.model.model.embed_tokens.weight.dtype == torch.bfloat16


@with_bitsandbytes
@pytest.mark.parametrize(("bits", "lost"), [(8, 0.05), (4, 0.35)])
def test_hidden_states_are_those_of_the_rounded_weights(build, cache, bits, lost):
    """But for bfloat16's 8 bits of mantissa (1.3 % here) and, in 8 bits, activations that are rounded as weights are.

    NF4 loses 9 % of a normally distributed matrix, eight bits 0.8 %, fourteen times in a row.
    """
    folder = cache / "bases" / "llava_med_7b"
    twin = load_llava(folder, dtype=torch.float32).eval()
    exact = _hidden(twin)
    for layer in twin.model.model.layers:
        for name in PROJECTIONS:
            weight = layer.get_submodule(name).weight
            weight.data = _rounded(weight.data.bfloat16().float(), bits)
    rounded, got = _hidden(twin), _hidden(build(bits).language.eval())
    assert got.dtype == torch.float32
    assert _relative(got, rounded) < 0.03
    assert _relative(got, exact) < lost


@with_bitsandbytes
@both_widths
def test_a_step_changes_the_adapters_and_leaves_the_base_alone(build, bits):
    network = _moved(build(bits))
    before = _copied(network)
    optimizer = AdamW([one for one in network.parameters() if one.requires_grad], lr=1e-2)
    assert all(float(gradient.norm()) > 0 for gradient in _gradients(network).values())
    optimizer.step()
    base = base_of(network).names
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not changed & base and set(before) >= base
    adapters = {name for name in before if "lora_" in name}
    assert len(adapters) == LAYERS * 4 * 2 and adapters <= changed


@with_bitsandbytes
@both_widths
def test_gradients_are_the_same_after_an_evaluation_and_a_saved_state(build, bits):
    """On a CPU with AVX512-BF16, bitsandbytes 0.50.2 alone would change them by four fifths."""
    network = _moved(build(bits))
    before = _gradients(network)
    answers = _answers(network)
    _copied(network)
    torch.testing.assert_close(_answers(network), answers, atol=0, rtol=0)
    torch.testing.assert_close(_gradients(network), before, atol=0, rtol=0)


@with_bitsandbytes
@both_widths
def test_a_checkpoint_holds_the_adapters_and_comes_back(build, tmp_path, bits):
    network = _moved(build(bits))
    answers = _answers(network)
    info = {"task": "prs_med", "preset": f"in_{bits}_bits"}
    save_model(tmp_path, network, info, tokenizer_file=TOKENIZER)
    saved = set(load_file(verified_file(tmp_path, "weights")))
    assert {name for name in saved if name.startswith("language.")} == {n for n in network.state_dict() if "lora_" in n}
    again, _ = load_network(tmp_path)
    torch.testing.assert_close(_answers(again), answers, atol=0, rtol=0)
    merge_lora(again.language)
    torch.testing.assert_close(_answers(again), answers, atol=0, rtol=0)


@with_bitsandbytes
@both_widths
def test_another_type_for_the_language_model_is_not_for_what_is_quantised(build, bits):
    codes = [one.dtype for one in build(bits).parameters() if not one.is_floating_point()]
    network = build(bits, language_dtype="float32")
    assert [one.dtype for one in network.parameters() if not one.is_floating_point()] == codes
    assert len(codes) == LAYERS * len(PROJECTIONS)
    assert network.language.model.model.embed_tokens.weight.dtype == torch.float32
    assert _relative(_hidden(network.language.eval()), _hidden(build(bits).language.eval())) < 0.05


@both_widths
def test_without_bitsandbytes_the_preset_is_refused_with_the_remedy(build, monkeypatch, bits):
    monkeypatch.setattr(llava, "is_bitsandbytes_available", lambda *_: False)
    with pytest.raises(RequestError, match=rf"in {bits} bits needs bitsandbytes .*pip install 'prsmed\[quantised\]'"):
        build_network("prs_med", f"in_{bits}_bits", vocab_size=VOCAB)


def test_other_numbers_of_bits_are_refused(cache, monkeypatch):
    monkeypatch.setattr(llava, "is_bitsandbytes_available", lambda *_: True)
    with pytest.raises(RequestError, match="bits is 3; expected 4, 8 or null"):
        load_llava(cache / "bases" / "llava_med_7b", bits=3)
