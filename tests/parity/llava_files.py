"""Generated checkpoints in LLaVA's original layout, with the sizes and weights of the parity numbers."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.parity.rule import PARITY

TOKENIZER = Path(__file__).resolve().parents[2] / "models" / "tiny" / "tokenizer.json"


def tiny_configs() -> tuple[dict, dict]:
    """The tiny LLaVA-Med's config.json, and its tower's."""
    both = json.loads((PARITY / "llava_med_tiny_config.json").read_text(encoding="utf-8"))
    return both["model_config"], both["vision_tower_config"]


def write_original(
    folder: Path, tensors: Mapping[str, torch.Tensor], config: Mapping, *, shards: int = 3, kind: str = "bin"
) -> Path:
    """A checkpoint folder as the original code saves it: shards of a kind, `bin` or `safetensors`, and their index."""
    stem, save = ("pytorch_model", torch.save) if kind == "bin" else ("model", save_file)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    shutil.copyfile(TOKENIZER, folder / "tokenizer.json")
    names = sorted(tensors)
    places = {}
    for number in range(shards):
        file = f"{stem}-{number + 1:05d}-of-{shards:05d}.{kind}"
        mine = names[number::shards]
        save({name: tensors[name] for name in mine}, folder / file)
        places |= dict.fromkeys(mine, file)
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def write_clip(folder: Path, config: Mapping, tensors: Mapping[str, torch.Tensor]) -> Path:
    """A folder of the tower alone."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"vision_config": dict(config)}))
    torch.save(dict(tensors), folder / "pytorch_model.bin")
    return folder
