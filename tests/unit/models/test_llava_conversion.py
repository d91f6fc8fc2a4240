"""The converter of LLaVA's checkpoints holds one shard at a time, however many there are."""

import multiprocessing
import re
from pathlib import Path

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from prsmed.models.llava_conversion import convert_llava, original_config
from tests.parity.llava_files import write_clip, write_original

STATUS = Path("/proc/self/status")
KINDS = ("bin", "safetensors")
SIZES = {  # six layers of 34 MB each in bf16
    "model_type": "llava_mistral",
    "vocab_size": 256,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
TOWER = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
ORIGINAL = {
    "model.vision_tower.": "model.vision_tower.vision_tower.vision_model.",
    "model.multi_modal_projector.linear_1.": "model.mm_projector.0.",
    "model.multi_modal_projector.linear_2.": "model.mm_projector.2.",
    "model.language_model.": "model.",
}


@pytest.fixture
def checkpoints(tmp_path) -> Path:
    """A folder with the same three-shard checkpoint in each kind of file, and the tower's sizes."""
    clip = write_clip(tmp_path / "clip", TOWER, {})
    first = write_original(tmp_path / "sizes", {}, SIZES)
    with torch.device("meta"):
        shapes = LlavaForConditionalGeneration(original_config(first, clip=clip)).state_dict()
    tensors = {}
    for name, tensor in shapes.items():
        own = next((name.replace(ours, theirs, 1) for ours, theirs in ORIGINAL.items() if name.startswith(ours)), name)
        tensors[own] = torch.ones(tensor.shape, dtype=torch.bfloat16)
    for kind in KINDS:
        write_original(tmp_path / kind, tensors, SIZES, kind=kind)
    return tmp_path


def _mib(field: str) -> float:
    return int(re.search(rf"{field}:\s+(\d+)", STATUS.read_text())[1]) / 1024


def _peak_of_conversion_mib(folder: Path) -> float:
    """Peak resident memory above what this process held when its imports were done."""
    started_mib = _mib("VmRSS")
    for kind in KINDS:
        convert_llava(folder / kind, folder / f"{kind}_converted", clip=folder / "clip")
    return _mib("VmHWM") - started_mib


@pytest.mark.skipif(not STATUS.exists(), reason="peak memory is read from /proc, which is Linux's")
def test_three_shards_pass_through_the_memory_of_less_than_two(checkpoints):
    """Shards of 60 to 73 MiB, each below `shard_bytes`, so whole; a converter that holds all three takes 203."""
    shards_mib = [file.stat().st_size / 2**20 for kind in KINDS for file in (checkpoints / kind).glob("*-of-00003.*")]
    assert len(shards_mib) == 6 and min(shards_mib) > 60
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        peak_mib = pool.apply(_peak_of_conversion_mib, (checkpoints,))
    assert min(shards_mib) / 2 < peak_mib < 2 * min(shards_mib)
    for kind in KINDS:
        written = sum(file.stat().st_size for file in (checkpoints / f"{kind}_converted").glob("*.safetensors"))
        assert written / 2**20 > 3 * min(shards_mib)
