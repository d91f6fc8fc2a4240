"""SmolLM2 from its GGUF file to an ordinary folder of transformers: config.json, model.safetensors, tokenizer.json."""

from __future__ import annotations

from pathlib import Path

import gguf
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel

from prsmed.errors import CheckpointError


def convert_smollm2(file: Path, folder: Path) -> None:
    """Write the language model of a GGUF file into `folder`, de-quantised to float32. Takes half a minute.

    Done once, because transformers reads GGUF in 20 s and this folder in one.

    Raises:
        CheckpointError: names the tensors that the file lacks, or has beyond the language model's.
    """
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        local_files_only=True,
    )
    _require_all_tensors(model, file)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True).backend_tokenizer
    # SmolLM2 was trained with digits split off before words. The GGUF says so by a name (`smollm`) that transformers
    # does not read; without it two spaces before a number become other pieces than in training.
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    tokenizer.save(str(folder / "tokenizer.json"))


def _require_all_tensors(model: PreTrainedModel, file: Path) -> None:
    """Transformers invents what a GGUF file lacks and drops what it has beyond; here both are errors."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    expected = {names.get_name(name, try_suffixes=(".weight",)) or name for name, _ in model.named_parameters()}
    held = {tensor.name for tensor in gguf.GGUFReader(file).tensors}
    if held != expected:
        missing, extra = (", ".join(sorted(some)) or "none" for some in (expected - held, held - expected))
        raise CheckpointError(
            f"{file}: does not fit its language model: missing {missing}, extra {extra}; get the published file again"
        )
