"""Generated checkpoints in LLaVA's original layout, with the sizes and weights of the parity numbers."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from tests.parity.rule import PARITY

TOKENIZER = Path(__file__).resolve().parents[2] / "models" / "tiny" / "tokenizer.json"


def tiny_configs() -> tuple[dict, dict]:
    """The tiny LLaVA-Med's config.json, and its tower's."""
    both = json.loads((PARITY / "llava_med_tiny_config.json").read_text(encoding="utf-8"))
    return both["model_config"], both["vision_tower_config"]


def write_original(folder: Path, tensors: Mapping[str, torch.Tensor], config: Mapping, *, shards: int = 3) -> Path:
    """A checkpoint folder as the original code saves it: `.bin` shards and their index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    shutil.copyfile(TOKENIZER, folder / "tokenizer.json")
    names = sorted(tensors)
    places = {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        mine = names[number::shards]
        torch.save({name: tensors[name] for name in mine}, folder / file)
        places |= dict.fromkeys(mine, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def write_clip(folder: Path, config: Mapping, tensors: Mapping[str, torch.Tensor]) -> Path:
    """A folder of the tower alone."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"vision_config": dict(config)}))
    torch.save(dict(tensors), folder / "pytorch_model.bin")
    return folder
