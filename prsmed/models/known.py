"""What MediSee's answers may be about: the targets that a model knows, and what its words say of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Said:
    """What the words of K answers say of N known things.

    Attributes:
        names: (N, D) mean embeddings of the names.
        log_prob: (K, N) of the answer's beginning with the statement about each, and not with a longer one.
        known_prob: (K,) that what follows the leads is a known name.
        told: (K, N) log-probability of each by the facts that the words of the question stand in.
    """

    names: torch.Tensor
    log_prob: torch.Tensor
    known_prob: torch.Tensor
    told: torch.Tensor


@dataclass(frozen=True)
class Known:
    """N things that an answer may be about, to K questions.

    Attributes:
        name_ids: (N, W) the words of their names, negative behind the shorter ones.
        statement_ids: (N, L) how an answer about each begins, the same: a lead ("This is the") and the name.
        is_lead: (N, L) which of them are the lead.
        told: (K, N) as in `Said`.
    """

    name_ids: torch.Tensor
    statement_ids: torch.Tensor
    is_lead: torch.Tensor
    told: torch.Tensor

    def said(self, log_prob_KNL: torch.Tensor, names_ND: torch.Tensor, answered_K: torch.Tensor) -> Said:
        """From the log-probabilities of the statements' tokens, of those questions that are answered."""
        log_prob_KNL = log_prob_KNL[answered_K]
        lead_KN = (log_prob_KNL * self.is_lead).sum(dim=2).double().exp()
        prob_KN, length_N = log_prob_KNL.sum(dim=2).double().exp(), (self.statement_ids >= 0).sum(dim=1)
        begins_NN = ((self.statement_ids[:, None] == self.statement_ids) | (self.statement_ids[:, None] < 0)).all(dim=2)
        for number in length_N.argsort(descending=True).tolist():  # "kidney" is not what goes on as "kidney tumour"
            is_longer_N = begins_NN[number] & (length_N > length_N[number])
            prob_KN[:, number] -= prob_KN[:, is_longer_N].sum(dim=1)
        leads_NL = self.statement_ids.masked_fill(~self.is_lead, -1)
        first_N = (leads_NL[:, None] == leads_NL).all(dim=2).int().argmax(dim=1).unique()
        known_prob_K = prob_KN.sum(dim=1) / lead_KN[:, first_N].sum(dim=1)
        log_prob_KN = prob_KN.clamp(min=1e-300).log().float()
        return Said(names_ND, log_prob_KN, known_prob_K, self.told[answered_K])
