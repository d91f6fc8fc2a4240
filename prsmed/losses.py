"""The loss of PRS-Med, L = BCE + Dice + 0.5 CE, with terms for presence and evidence; every weight is an argument.

Source: the project page of PRS-Med for the three published terms; the other two are ours (docs/decisions).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from prsmed.errors import RequestError
from prsmed.models.prs_med import PRSMedOutput

TERMS = ("bce", "dice", "ce", "presence", "evidence")


def dice_loss(prob_K1HW: torch.Tensor, label_K1HW: torch.Tensor, present_K: torch.Tensor) -> torch.Tensor:
    """1 - soft Dice, averaged over the objects that are present; an absent object is left to the BCE.

    Soft Dice of an empty truth is 0 whatever is predicted, so it would carry no useful gradient.
    """
    overlap = (prob_K1HW * label_K1HW).sum(dim=(1, 2, 3))
    total = prob_K1HW.sum(dim=(1, 2, 3)) + label_K1HW.sum(dim=(1, 2, 3))
    loss_K = 1 - (2 * overlap + 1) / (total + 1)
    return (loss_K * present_K).sum() / present_K.sum().clamp(min=1)


class PRSMedLoss(nn.Module):
    """Weighted sum of the terms; `terms` of the last call are kept for logging, detached.

    Args:
        weights: of the terms by name; a term that is not named has no weight. `bce` and `dice` are on the mask, over
            the image without padding; `ce` is the next-token loss over the answer; `presence` the BCE of the presence
            head; `evidence` the BCE of the coarse evidence map, on the channel of the object's kind.

    Raises:
        RequestError: a weight for a term that does not exist.
    """

    def __init__(self, weights: Mapping[str, float]):
        super().__init__()
        unknown = sorted(set(weights) - set(TERMS))
        if unknown:
            raise RequestError(f"loss_weights: {', '.join(unknown)} unknown; the terms are {', '.join(TERMS)}")
        self.weights = {name: float(weights.get(name, 0.0)) for name in TERMS}
        self.terms: dict[str, torch.Tensor] = {}

    def forward(self, output: PRSMedOutput, batch: Mapping[str, Any]) -> torch.Tensor:
        """
        Args:
            output: of `PRSMed`, computed with `target_ids`.
            batch: with `label` (K, 1, H, W), `valid` (K, 1, H, W), `present`, `kind_index`, `obj_image` (K,),
                `target_ids` (K, T).
        """
        assert output.mask_logits is not None and output.presence_logit is not None
        logits, label, valid = output.mask_logits.float(), batch["label"].float(), batch["valid"].float()
        present_K = batch["present"].float()
        terms = {
            "bce": _mean_over_valid(logits, label, valid),
            "dice": dice_loss(logits.sigmoid() * valid, label * valid, present_K),
            "presence": F.binary_cross_entropy_with_logits(output.presence_logit.float(), present_K),
        }
        if output.text_logits is not None:
            answer_ids = batch["target_ids"][:, 1:]
            terms["ce"] = F.cross_entropy(output.text_logits.float(), answer_ids[answer_ids >= 0])
        if output.evidence_logits is not None:
            asked = output.evidence_logits.float()[batch["obj_image"], batch["kind_index"]][:, None]
            terms["evidence"] = _mean_over_valid(asked, label, valid)
        self.terms = {name: term.detach() for name, term in terms.items()}
        return sum((self.weights[name] * term for name, term in terms.items()), torch.zeros((), device=logits.device))


def _mean_over_valid(logits_K1HW: torch.Tensor, label_K1HW: torch.Tensor, valid_K1HW: torch.Tensor) -> torch.Tensor:
    pixel_bce = F.binary_cross_entropy_with_logits(logits_K1HW, label_K1HW, reduction="none") * valid_K1HW
    return (pixel_bce.sum(dim=(1, 2, 3)) / valid_K1HW.sum(dim=(1, 2, 3))).mean()
