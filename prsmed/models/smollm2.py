"""SmolLM2 from its GGUF file to an ordinary folder of transformers: config.json, model.safetensors, tokenizer.json."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def convert_smollm2(file: Path, folder: Path) -> None:
    """Write the language model of a GGUF file into `folder`, de-quantised to float32. Takes half a minute.

    Done once, because transformers reads GGUF in 20 s and this folder in one.
    """
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        local_files_only=True,
    )
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True).backend_tokenizer
    # SmolLM2 was trained with digits split off before words. The GGUF says so by a name (`smollm`) that transformers
    # does not read; without it two spaces before a number become other pieces than in training.
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    tokenizer.save(str(folder / "tokenizer.json"))
