"""How MONAI's engines run MediSee: packed sequences in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai.inferers import Inferer
from torch import nn

from bundle.engines import mixed_precision
from prsmed.models.medisee import MediSeeOutput


class PackedInferer(Inferer):
    """One forward pass over a batch of `collate_packed`."""

    def __call__(self, inputs: Mapping[str, Any], network: nn.Module, *_: Any, **__: Any) -> MediSeeOutput:
        with mixed_precision(network, inputs["image"]):
            return network(
                inputs["image"],
                [geometry.canonical_hw_px for geometry in inputs["geometry"]],
                inputs["input_ids"],
                inputs["attention_mask"],
                candidate_at=inputs["candidate_at"],
                obj_image=inputs["obj_image"],
                position_ids=inputs["position_ids"],
                target_ids=inputs["target_ids"],
                name_ids=inputs["name_ids"],
                absent_ids=inputs["absent_ids"],
                absent_image=inputs["absent_image"],
                teacher_at=inputs["teacher_at"],
                teacher_image=inputs["teacher_image"],
            )
