"""The conversion from GGUF: the numbers of the network that was written, and words cut as in training."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from prsmed.errors import CheckpointError
from prsmed.models.smollm2 import convert_smollm2

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PIECES = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĠĠ", "mm"]
MERGES = ["Ġ Ġ", "m m"]
NAMES = {  # llama.cpp's names of Llama's tensors
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def tiny_network() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(PIECES),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rope_theta=1e5,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """The order of q and k rows in GGUF: the two halves of each head's rotary pairs, alternating (llama.cpp)."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, network: LlamaForCausalLM) -> None:
    """Quantised as the published file: Q4_1 for the layers, Q8_0 for the embeddings, norms as they are.

    What quantisation loses, `network` loses too: both then hold the same numbers.
    """
    config, writer = network.config, gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(PIECES)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(PIECES) - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, parameter in network.named_parameters():
        stem, part = name.removesuffix(".weight"), ""
        if stem.startswith("model.layers."):
            _, _, layer, stem = stem.split(".", 3)
            part = f"blk.{layer}."
        own, weight = NAMES[stem], parameter.detach().numpy()
        kind = gguf.GGMLQuantizationType.F32
        if weight.ndim == 2:
            kind = getattr(gguf.GGMLQuantizationType, "Q8_0" if own == "token_embd" else "Q4_1")
        packed = gguf.quantize(interleaved(weight, heads[own]) if own in heads else weight, kind)
        writer.add_tensor(f"{part}{own}.weight", packed, raw_dtype=kind)
        # Quantisation works row by row, so that the order of rows does not matter here.
        parameter.data = torch.from_numpy(gguf.dequantize(gguf.quantize(weight, kind), kind).copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    network = tiny_network()
    write_gguf(folder / "any.member", network)
    convert_smollm2(folder / "any.member", folder / "base")
    return folder / "base", network


def test_the_numbers_are_those_of_the_file(converted):
    folder, network = converted
    loaded = LlamaForCausalLM.from_pretrained(folder, local_files_only=True)
    assert loaded.dtype == torch.float32 and not hasattr(loaded.config, "quantization_config")
    assert loaded.config.rope_parameters["rope_theta"] == 1e5 and loaded.config.tie_word_embeddings
    ids = torch.randint(len(PIECES), (2, 11), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, network(ids).logits)


@pytest.mark.parametrize(
    ("name", "copies", "says"),
    [
        ("blk.1.ffn_up.weight", [], r"missing blk\.1\.ffn_up\.weight, extra none"),
        (
            "blk.1.ffn_up.weight",
            ["blk.1.ffn_up.weight", "blk.1.more.weight"],
            r"missing none, extra blk\.1\.more\.weight",
        ),
    ],
    ids=["missing", "extra"],
)
def test_a_file_with_other_tensors_is_refused_by_name(name, copies, says, tmp_path, monkeypatch):
    add = gguf.GGUFWriter.add_tensor

    def add_copies(self, given, *args, **kwargs):
        for copy in copies if given == name else [given]:
            add(self, copy, *args, **kwargs)

    monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", add_copies)
    write_gguf(tmp_path / "any.gguf", tiny_network())
    with pytest.raises(CheckpointError, match=says):
        convert_smollm2(tmp_path / "any.gguf", tmp_path / "base")
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("x  12 mm", ["x", "ĠĠ", "1", "2", "Ġ", "mm"]),
        ("<|im_start|>a<|im_end|>", ["<|im_start|>", "a", "<|im_end|>"]),
    ],
)
def test_words_are_cut_as_in_training(converted, text, pieces):
    # Digits alone and before the words: the tokenizer of SmolLM2, called `smollm` in llama.cpp.
    assert Tokenizer.from_file(str(converted[0] / "tokenizer.json")).encode(text).tokens == pieces
