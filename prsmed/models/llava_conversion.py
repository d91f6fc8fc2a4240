"""From LLaVA's original checkpoint layout to a Hugging Face folder, in bounded memory.

The original keeps `model.layers.*`, `model.mm_projector.*` and `model.vision_tower.vision_tower.*` in a few shards
(`.bin` or safetensors). LLaVA-1.5 leaves its frozen CLIP tower out; it then comes from a CLIP folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
)

from prsmed.errors import CheckpointError
from prsmed.models.checkpoints import sha256_of
from prsmed.models.pretrained import Renames, read_torch_file, renamed
from prsmed.text.sentencepiece_files import convert_sentencepiece

ORIGINAL_NAMES: Renames = (
    (r"^model\.vision_tower\.vision_tower\.vision_model\.", "model.vision_tower."),
    (r"^vision_model\.", "model.vision_tower."),
    (r"^model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
    (r"^model\.(layers|embed_tokens|norm)\.", r"model.language_model.\1."),
)
_LANGUAGE = {
    "llava_mistral": MistralConfig,
    "mistral": MistralConfig,
    "llava_llama": LlamaConfig,
    "llava": LlamaConfig,
    "llama": LlamaConfig,
}
_LANGUAGE_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "sliding_window",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
CLIP_VIT_L_336: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
# Tables that older releases stored and every release computes; and the half of CLIP that reads text.
_NOT_WEIGHTS = ("rotary_emb.inv_freq", "position_ids", "logit_scale")
_NOT_VISION = ("text_model.", "text_projection.", "visual_projection.")


def convert_llava(
    source: Path,
    out: Path,
    *,
    clip: Path | None = None,
    shard_bytes: int = 1_000_000_000,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Write `source`, in the original layout, to the new folder `out`: config.json, safetensors shards, tokenizer.json
    and base.json with the hashes of what went in and out.

    One source shard is mapped at a time and leaves in pieces of at most `shard_bytes` (or its largest tensor), which
    bounds the memory. The folder gets its name when it is complete.

    Args:
        clip: a CLIP folder: its config.json sizes the tower (else ViT-L/14 at 336 px), and its weights are used where
            the checkpoint has none.

    Raises:
        CheckpointError: `out` exists, a shard is missing or damaged, or a tensor is missing, extra or of another shape.
    """
    if out.exists():
        raise CheckpointError(f"{out}: exists already; remove it, or choose another folder")
    config = original_config(source, clip=clip)
    shards = _shards(source)
    if clip is not None and not any(_is_tower(name) for shard in shards for name in _names(shard)):
        shards += _shards(clip)
    _check(shards, config, source)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    places: dict[str, str] = {}
    for shard in shards:
        if progress:
            progress(shard.name)
        for group in _groups(shard, shard_bytes):
            file = f"model-{len(set(places.values())) + 1:05d}.safetensors"
            save_file(group, part / file, metadata={"format": "pt"})
            places |= dict.fromkeys(group, file)
    index = {"metadata": {"total_size": sum(path.stat().st_size for path in part.iterdir())}, "weight_map": places}
    (part / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    config.save_pretrained(part)
    _write_tokenizer(source, part)
    _write_record(part, shards)
    part.rename(out)


def original_config(source: Path, *, clip: Path | None = None) -> LlavaConfig | LlavaNextConfig:
    """The sizes in an original checkpoint's config.json, as transformers writes them."""
    said = _json(source / "config.json")
    kind = said.get("model_type")
    if kind not in _LANGUAGE:
        raise CheckpointError(f"{source}: is a {kind!r} checkpoint; known are {', '.join(_LANGUAGE)}")
    fields = {name: said[name] for name in _LANGUAGE_FIELDS if name in said}
    text = _LANGUAGE[kind](**fields, tie_word_embeddings=bool(said.get("tie_word_embeddings", False)))
    tower: dict[str, Any] = CLIP_VIT_L_336 if clip is None else _json(clip / "config.json")
    vision = CLIPVisionConfig(**tower.get("vision_config", tower))
    chosen: dict[str, Any] = {
        "text_config": text,
        "vision_config": vision,
        "vision_feature_layer": said.get("mm_vision_select_layer", -2),
        "tie_word_embeddings": text.tie_word_embeddings,
    }
    is_next = str(said.get("mm_patch_merge_type", "flat")).startswith("spatial")
    return LlavaNextConfig(**chosen) if is_next else LlavaConfig(**chosen)


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); give the folder of the checkpoint") from error


def _shards(folder: Path) -> list[Path]:
    """The weight files of a folder, in order: by its index, or the single file."""
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).is_file():
            names = sorted({Path(name).name for name in _json(folder / index)["weight_map"].values()})
            break
    else:
        names = [name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()][:1]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise CheckpointError(f"{folder}: has no weights, or lacks {missing[:3]}; download the checkpoint again")
    return [folder / name for name in names]


def _tensors(shard: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor, one by one, of what is a weight of ours; each is read when it is used."""
    if shard.suffix == ".safetensors":
        try:
            with safe_open(shard, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a dictionary
                    if _is_weight(name):
                        yield renamed(name, ORIGINAL_NAMES), opened.get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"{shard}: is damaged ({error}); download it again") from error
    else:
        for name, tensor in read_torch_file(shard).items():
            if _is_weight(name):
                yield renamed(name, ORIGINAL_NAMES), tensor


def _is_weight(name: str) -> bool:
    return not name.endswith(_NOT_WEIGHTS) and not name.startswith(_NOT_VISION)


def _is_tower(name: str) -> bool:
    return name.startswith("model.vision_tower.")


def _names(shard: Path) -> list[str]:
    return [name for name, _ in _tensors(shard)]


def _check(shards: list[Path], config: LlavaConfig | LlavaNextConfig, source: Path) -> None:
    found = {name: tuple(tensor.shape) for shard in shards for name, tensor in _tensors(shard)}
    with torch.device("meta"):
        expected: Mapping[str, torch.Tensor] = (
            LlavaNextForConditionalGeneration(config)
            if isinstance(config, LlavaNextConfig)
            else LlavaForConditionalGeneration(config)
        ).state_dict()
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    shapes = [name for name in found if name in expected and found[name] != tuple(expected[name].shape)]
    if missing or extra or shapes:
        remedy = "give a CLIP folder with --clip" if any(_is_tower(name) for name in missing) else "download it again"
        raise CheckpointError(
            f"{source} does not fit its config.json: missing {missing[:3]}, extra {extra[:3]},"
            f" other shape {shapes[:3]}; {remedy}"
        )


def _groups(shard: Path, most_bytes: int) -> Iterator[dict[str, torch.Tensor]]:
    group: dict[str, torch.Tensor] = {}
    for name, tensor in _tensors(shard):
        if group and sum(each.nbytes for each in group.values()) + tensor.nbytes > most_bytes:
            yield group
            group = {}
        group[name] = tensor.contiguous()
    if group:
        yield group


def _write_tokenizer(source: Path, out: Path) -> None:
    if (source / "tokenizer.json").is_file():
        shutil.copyfile(source / "tokenizer.json", out / "tokenizer.json")
    elif (source / "tokenizer.model").is_file():
        convert_sentencepiece(source / "tokenizer.model").save(str(out / "tokenizer.json"))
    else:
        raise CheckpointError(f"{source}: has neither tokenizer.json nor tokenizer.model; download it again")


def _write_record(out: Path, shards: list[Path]) -> None:
    sources = {shard.name: sha256_of(shard) for shard in shards}
    digest = hashlib.sha256("".join(f"{name} {sha256}\n" for name, sha256 in sources.items()).encode()).hexdigest()
    record = {
        "source": {"sha256": digest, "files": sources},
        "files": {path.name: sha256_of(path) for path in sorted(out.iterdir())},
    }
    (out / "base.json").write_text(json.dumps(record, indent=1) + "\n")
