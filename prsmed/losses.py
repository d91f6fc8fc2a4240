"""The losses of PRS-Med and of MediSee as weighted sums of terms; every weight is an argument.

Sources: PRS-Med's project page, L = BCE + Dice + 0.5 CE, with our terms for presence and evidence (docs/decisions);
MediSee (Tong et al. 2025), equations 4 and 5, L = CE + 2 BCE + 0.5 Dice + L1 + GIoU, and 2 JS + MSE in fine-tuning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.losses import BoxGIoULoss
from torch import nn

from prsmed.errors import RequestError
from prsmed.geometry import cxcywh_to_xyxy
from prsmed.models.medisee import MediSeeOutput
from prsmed.models.prs_med import PRSMedOutput
from prsmed.text.encode import IGNORE_ID

TERMS = ("bce", "dice", "ce", "presence", "evidence", "zone")
SAME_NAME = 0.999
"""Names with a cosine above it are one: equal words may differ in their last bits."""
SEE_TERMS = ("ce", "bce", "dice", "l1", "giou", "coarse", "named", "absent", "recall", "js", "mse")


def dice_loss(prob_K1HW: torch.Tensor, label_K1HW: torch.Tensor, present_K: torch.Tensor) -> torch.Tensor:
    """1 - soft Dice, averaged over the objects that are present; an absent object is left to the BCE.

    Soft Dice of an empty truth is 0 whatever is predicted, so it would carry no useful gradient.
    """
    overlap = (prob_K1HW * label_K1HW).sum(dim=(1, 2, 3))
    total = prob_K1HW.sum(dim=(1, 2, 3)) + label_K1HW.sum(dim=(1, 2, 3))
    loss_K = 1 - (2 * overlap + 1) / (total + 1)
    return mean_of_objects(loss_K, present_K)


class WeightedTerms(nn.Module):
    """A weighted sum; `terms` of the last call are kept for logging, detached.

    Args:
        weights: of the terms by name; a term that is not named has no weight.
        names: the terms that exist.

    Raises:
        RequestError: a weight for a term that does not exist.
    """

    def __init__(self, weights: Mapping[str, float], names: Sequence[str]):
        super().__init__()
        unknown = sorted(set(weights) - set(names))
        if unknown:
            raise RequestError(f"loss_weights: {', '.join(unknown)} unknown; the terms are {', '.join(names)}")
        self.weights = {name: float(weights.get(name, 0.0)) for name in names}
        self.terms: dict[str, torch.Tensor] = {}

    def total(self, terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The sum of all terms by their weights."""
        if not any(self.weights[name] for name in terms):
            raise RequestError(f"loss_weights: all that can be learned now ({', '.join(terms)}) has weight 0")
        self.terms = {name: term.detach() for name, term in terms.items()}
        device = next(iter(terms.values())).device
        return sum((self.weights[name] * term for name, term in terms.items()), torch.zeros((), device=device))


class PRSMedLoss(WeightedTerms):
    """The loss of PRS-Med.

    Args:
        weights: of the terms by name; a term that is not named has no weight. `bce` and `dice` are on the mask, over
            the image without padding; `ce` is the next-token loss over the answer; `presence` the BCE of the presence
            head; `evidence` the BCE of the coarse evidence map, on the channel of the object's kind; `zone` the
            cross-entropy of what that map says in words.

    Raises:
        RequestError: a weight for a term that does not exist.
    """

    def __init__(self, weights: Mapping[str, float]):
        super().__init__(weights, TERMS)

    def forward(self, output: PRSMedOutput, batch: Mapping[str, Any]) -> torch.Tensor:
        """
        Args:
            output: of `PRSMed`, computed with `target_ids`.
            batch: with `label` (K, 1, H, W), `valid` (K, 1, H, W), `present`, `kind_index`, `state_index`, `obj_image`
                (K,), `target_ids` (K, T). A `state_index` of IGNORE_ID says that the row asks for what such a picture
                cannot show: the evidence in it is of something else.
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
            terms["ce"] = next_token_loss(output.text_logits, answer_ids[answer_ids >= 0])
        if output.evidence_logits is not None:
            asked = output.evidence_logits.float()[batch["obj_image"], batch["kind_index"]][:, None]
            shown_K = (batch["state_index"] != IGNORE_ID).float()
            terms["evidence"] = mean_of_objects(bce_of_objects(asked, label, valid), shown_K)
        if output.state_logits is not None:
            states = output.state_logits.float()[batch["obj_image"], batch["kind_index"]]
            zone_K = F.cross_entropy(states, batch["state_index"], ignore_index=IGNORE_ID, reduction="none")
            terms["zone"] = mean_of_objects(zone_K, shown_K)
        return self.total(terms)


class MediSeeLoss(WeightedTerms):
    """The loss of MediSee. Terms of objects are divided by the number of objects in the global batch.

    Args:
        weights: of the terms by name. `ce` is the next-token loss over answers and candidates; `bce` and `dice` are on
            the mask, over the image without padding; `l1` (mean over the four coordinates) and `giou` on the corners of
            the box; `js` and `mse` compare the similarity map of a question with that of its plain-label query. Where
            the network has a coarse mask, `coarse` is its BCE and Dice, `named` that of the one which the target's name
            asks for, `absent` the cross-entropy of the surest cell where a name asks for what is not there,
            and `recall` says whether the question's query tells the target's name from the other names.

    A term of what the network left out, because nothing there learns, does not count.
    """

    def __init__(self, weights: Mapping[str, float]):
        super().__init__(weights, SEE_TERMS)

    def forward(self, output: MediSeeOutput, batch: Mapping[str, Any]) -> torch.Tensor:
        """
        Args:
            output: of `MediSee`, computed with `target_ids`.
            batch: with `label`, `valid` (K, 1, H, W), `boxes_xyxy_norm` (K, 4) NaN where no box is known, `obj_image`
                (K,), `target_ids` (B, T), and where there are plain-label queries `teacher_of` (Kt,), the object that
                each belongs to. An object whose `valid` is empty has no mask.
        """
        answer_ids, terms = batch["target_ids"][:, 1:], {}
        label, valid = batch["label"].float(), batch["valid"].float()
        has_mask_K = valid.flatten(1).amax(dim=1)
        if output.text_logits is not None:
            terms["ce"] = next_token_loss(output.text_logits, answer_ids[answer_ids >= 0])
        if output.mask_logits is not None:
            losses_K = _mask_losses(output.mask_logits, label, valid)
            terms["bce"], terms["dice"] = (mean_of_objects(loss_K, has_mask_K) for loss_K in losses_K)
        for name, logits in (("coarse", output.coarse_logits), ("named", output.named_logits)):
            if logits is not None:
                bce_K, dice_K = _mask_losses(logits, label, valid)
                terms[name] = mean_of_objects(bce_K + dice_K, has_mask_K)
        if output.absent_peaks is not None:
            # Of all that is asked for: the few that are not there must not keep the rest from lighting up.
            lit_N = F.pad(F.softplus(output.absent_peaks), (0, len(label)))
            terms["absent"] = mean_of_objects(lit_N, torch.ones_like(lit_N))
        if output.queries is not None and output.names is not None:
            recall_K = recall_losses(output.queries, output.names)
            terms["recall"] = mean_of_objects(recall_K, torch.ones_like(recall_K))
        if output.boxes_cxcywh is not None:
            terms["l1"], terms["giou"] = box_losses(output.boxes_cxcywh, batch["boxes_xyxy_norm"])
        if output.teacher_states is not None and (self.weights["js"] or self.weights["mse"]):
            terms["js"], terms["mse"] = self._similarity(output, batch)
        return self.total(terms)

    def _similarity(self, output: MediSeeOutput, batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        assert output.seg_states is not None and output.image_states is not None
        of = batch["teacher_of"]
        image_KND = output.image_states[batch["obj_image"][of]]
        student_KN = similarity_maps(output.seg_states[of], image_KND)
        assert output.teacher_states is not None
        return similarity_losses(student_KN, similarity_maps(output.teacher_states, image_KND))


def _mask_losses(
    logits_K1HW: torch.Tensor, label_K1HW: torch.Tensor, valid_K1HW: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    logits_K1HW = logits_K1HW.float()
    prob_K1HW = logits_K1HW.sigmoid() * valid_K1HW
    return bce_of_objects(logits_K1HW, label_K1HW, valid_K1HW), dice_of_objects(prob_K1HW, label_K1HW * valid_K1HW)


def bce_of_objects(logits_K1HW: torch.Tensor, label_K1HW: torch.Tensor, valid_K1HW: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of each object (K,), over its valid pixels; 0 where it has none."""
    pixels = F.binary_cross_entropy_with_logits(logits_K1HW, label_K1HW, reduction="none") * valid_K1HW
    return pixels.sum(dim=(1, 2, 3)) / valid_K1HW.sum(dim=(1, 2, 3)).clamp(min=1)


def dice_of_objects(prob_K1HW: torch.Tensor, label_K1HW: torch.Tensor, *, smooth: float = 1e-3) -> torch.Tensor:
    """1 - soft Dice of each object (K,), with the smoothing of MediSee's released code."""
    overlap = (prob_K1HW * label_K1HW).sum(dim=(1, 2, 3))
    total = prob_K1HW.sum(dim=(1, 2, 3)) + label_K1HW.sum(dim=(1, 2, 3))
    return 1 - (2 * overlap + smooth) / (total + smooth)


def recall_losses(queries_KE: torch.Tensor, names_KE: torch.Tensor) -> torch.Tensor:
    """Cross-entropy (K,) of each object's own name among the different names of all processes, which get no gradient.

    The logits are products divided by the root of E. A squared distance instead moves all queries to the names' mean
    before it tells one name from another.
    """
    own_KE, names_NE = names_KE.detach().float(), of_all_processes(names_KE.detach().float())
    alike_NN = F.cosine_similarity(names_NE[:, None], names_NE[None], dim=2) > SAME_NAME
    scale = queries_KE.shape[1] ** -0.5
    logits_KN = scale * queries_KE.float() @ names_NE.T - alike_NN.sum(dim=1).log()
    return logits_KN.logsumexp(dim=1) - scale * (queries_KE.float() * own_KE).sum(dim=1)


def box_losses(boxes_cxcywh: torch.Tensor, truth_xyxy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """L1 (mean over the coordinates) and 1 - GIoU of boxes (K, 4) in one unit; a truth of NaN does not count."""
    known_K = ~truth_xyxy.isnan().any(dim=1)
    predicted = cxcywh_to_xyxy(boxes_cxcywh.float())
    truth = torch.where(known_K[:, None], truth_xyxy.float(), predicted.detach())
    l1_K = (predicted - truth).abs().mean(dim=1)
    giou_K = BoxGIoULoss(reduction="none")(predicted, truth)
    return mean_of_objects(l1_K, known_K.float()), mean_of_objects(giou_K, known_K.float())


def similarity_maps(states_KD: torch.Tensor, image_KND: torch.Tensor) -> torch.Tensor:
    """How alike a state and the image's states are: dot products (K, N) in float32, divided by the root of D.

    Undivided, 4096 wide states give a softmax of one hot cell without a gradient.
    """
    with torch.autocast(states_KD.device.type, enabled=False):
        products_KN = torch.einsum("kd,knd->kn", states_KD.float(), image_KND.float())
        return products_KN / states_KD.shape[-1] ** 0.5


def similarity_losses(maps_KN: torch.Tensor, teacher_KN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Jensen-Shannon divergence of the spatial softmax, and mean squared error of the maps stretched to [0, 1].

    The teacher gets no gradient (MediSee, equation 5; its scaling is ours, docs/decisions/similarity_loss.md).
    """
    teacher_KN = teacher_KN.detach()
    js_K = jensen_shannon(maps_KN.log_softmax(dim=1), teacher_KN.log_softmax(dim=1))
    mse_K = (_stretched(maps_KN) - _stretched(teacher_KN)).square().mean(dim=1)
    every_K = torch.ones_like(js_K)
    return mean_of_objects(js_K, every_K), mean_of_objects(mse_K, every_K)


def jensen_shannon(log_p_KN: torch.Tensor, log_q_KN: torch.Tensor) -> torch.Tensor:
    """Of two log-distributions, (K,) from 0 to ln 2; in log space, so that a probability of 0 gives no NaN."""
    log_m_KN = torch.logaddexp(log_p_KN, log_q_KN) - math.log(2)
    from_p_K, from_q_K = ((log_KN.exp() * (log_KN - log_m_KN)).sum(dim=1) for log_KN in (log_p_KN, log_q_KN))
    return 0.5 * (from_p_K + from_q_K)


def mean_of_objects(loss_K: torch.Tensor, counts_K: torch.Tensor) -> torch.Tensor:
    """The mean over the objects that count, of all processes; 0 where there are none."""
    return (loss_K * counts_K).sum() / count_per_process(counts_K.sum()).clamp(min=1 / _processes())


def next_token_loss(logits_MV: torch.Tensor, target_ids_M: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the answer tokens of all processes."""
    loss = F.cross_entropy(logits_MV.float(), target_ids_M)
    count = torch.tensor(float(len(target_ids_M)), device=loss.device)
    return loss * (count / count_per_process(count))


def count_per_process(count: torch.Tensor) -> torch.Tensor:
    """How many things a process has on average.

    Gradients of processes are averaged, not added: divided by this, things weigh alike wherever they were.
    """
    if _processes() == 1:
        return count
    every = count.clone()
    torch.distributed.all_reduce(every)
    return every / _processes()


def of_all_processes(rows_KE: torch.Tensor) -> torch.Tensor:
    """The rows (N, E) of all processes, which may have different numbers of them; without gradients."""
    if _processes() == 1:
        return rows_KE
    counts = [torch.zeros(1, dtype=torch.long, device=rows_KE.device) for _ in range(_processes())]
    torch.distributed.all_gather(counts, counts[0].new_tensor([len(rows_KE)]))
    most = max(int(count) for count in counts)
    every = [rows_KE.new_zeros(most, rows_KE.shape[1]) for _ in counts]
    torch.distributed.all_gather(every, F.pad(rows_KE, (0, 0, 0, most - len(rows_KE))))
    return torch.cat([rows_ME[:count] for rows_ME, count in zip(every, counts, strict=True)])


def _processes() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def _stretched(maps_KN: torch.Tensor) -> torch.Tensor:
    low, high = maps_KN.amin(dim=1, keepdim=True), maps_KN.amax(dim=1, keepdim=True)
    return (maps_KN - low) / (high - low).clamp(min=1e-6)


def _mean_over_valid(logits_K1HW: torch.Tensor, label_K1HW: torch.Tensor, valid_K1HW: torch.Tensor) -> torch.Tensor:
    pixel_bce = F.binary_cross_entropy_with_logits(logits_K1HW, label_K1HW, reduction="none") * valid_K1HW
    return (pixel_bce.sum(dim=(1, 2, 3)) / valid_K1HW.sum(dim=(1, 2, 3))).mean()
