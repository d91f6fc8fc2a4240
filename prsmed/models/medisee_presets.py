"""The rows of MediSee in the table of presets, and what they need beside an encoder and a language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prsmed.models.adopted import any_base_file
from prsmed.models.encoders import SegmentationEncoder
from prsmed.models.language import LanguageBackbone
from prsmed.models.medisee import MediSee
from prsmed.models.pretrained import read_torch_file
from prsmed.models.sam import SamPrompting

_TINY: dict[str, Any] = {
    "tokenizer": "tiny",
    "image_px": 64,
    "encoder": {
        "widths": (16, 32, 64, 96),
        "depths": (1, 1, 2, 1),
        "heads": (1, 2, 2, 3),
        "windows": (7, 8, 8, 8),
        "neck_channels": 64,
        "patch_kernel": 1,
        "patch_stride": 1,
    },
    "language": {"width": 192, "layers": 3, "heads": 4, "max_positions": 2048},
    "token_grid_px": 8,
    "prompting": {"width": 64, "layers": 2, "heads": 4, "mlp_width": 256},
    "heads": {"router_width": 128, "box_width": 128},
}
_SMALL: dict[str, Any] = {
    "tokenizer": "smollm2_135m",
    "special_tokens": {"bos": "<|im_start|>", "eos": "<|im_end|>", "pad": "<|endoftext|>"},
    "chat": {
        "before_image": "user\n",
        "user_header": "\n",
        "assistant_header": "<|im_end|>\n<|im_start|>assistant\n",
    },
    "image_px": 256,
    "encoder": {"base": "lite_medsam"},
    "language": {"base": "smollm2_135m", "lora": {"rank": 16, "alpha": 16, "dropout": 0.0}},
    "token_grid_px": 8,
    "prompting": {"base": "lite_medsam"},
    "heads": {"router_width": 1024, "box_width": 512},
}
_COARSE: dict[str, dict[str, Any]] = {"": {}, "_coarse": {"coarse_width": 64}}
"""As the paper has it, and with our coarse mask before box and mask."""
_VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "_seg": {"candidates": 1, "box_head": False, "box_prompt": False},
    "_seg_box": {"candidates": 1},
    "_hard": {"gate": "hard"},
    "_text": {"box_prompt": False},
}
"""What MediSee is compared with: the [SEG] token alone (LISA), [SEG] with a box (table 4, n = 1), each candidate to its
own decoder (hard), and no box prompt (table 5)."""

MEDISEE_PRESETS = {
    ("medisee", name + coarse + suffix): {**row, "heads": {**row["heads"], **width, **changes}}
    for name, row in (("tiny", _TINY), ("small", _SMALL))
    for coarse, width in _COARSE.items()
    for suffix, changes in _VARIANTS.items()
}


def candidates(row: Mapping[str, Any]) -> int:
    """How many candidate tokens a row's network has; 0 for a network without."""
    return row["heads"].get("candidates", 2) if "heads" in row else 0


def build_medisee(row: Mapping[str, Any], encoder: SegmentationEncoder, language: LanguageBackbone) -> MediSee:
    """The network of a row, on its encoder and language model."""
    sizes = {name: value for name, value in row["prompting"].items() if name != "base"}
    prompting = SamPrompting(frame_px=row["image_px"], **sizes)
    if "base" in row["prompting"]:
        path = any_base_file(row["prompting"]["base"])
        prompting.load_segment_anything(read_torch_file(path), source=str(path))
    return MediSee(encoder, language, prompting, **row["heads"])
