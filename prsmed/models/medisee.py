"""MediSee: the language model points with candidate tokens; their states become a box and a prompt for SAM's decoder.

Source: Tong et al. 2025, section 4. Every answer begins with the candidate tokens, and their states are taken where
they are predicted, so a mask depends on the image and the question alone (docs/decisions/candidate_tokens.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Cache
from transformers.utils import ModelOutput

from prsmed.geometry import cxcywh_to_xyxy, in_image
from prsmed.models.coarse_mask import peaks_of
from prsmed.models.encoders import EncodedImage, Looked, SegmentationEncoder
from prsmed.models.heads import Heads
from prsmed.models.known import Known, Said
from prsmed.models.language import LanguageBackbone, ReadPrefix
from prsmed.models.prs_med import last_states, rest_frozen
from prsmed.models.sam import SamPrompting, full_precision
from prsmed.text.encode import IMAGE_ID

MODES = ("free", "forced")
"""How a question is put. `forced` writes the candidates into the answer, as the paper's evaluation does: one pass, and
the model cannot say that nothing is there. `free` generates: an answer without candidates points at nothing, nor does
one whose coarse mask lights up no cell."""


@dataclass
class MediSeeOutput(ModelOutput):
    """One record for K objects in R sequences about B images.

    While a network with a coarse mask trains, two parts run only as far as they are needed, and what they give is None
    otherwise: the language model while anything learns that learns from questions, and SAM's mask decoder while it,
    the text projection or what it is told of the coarse mask learns. Until then no gradient comes through it.

    Attributes:
        mask_logits: (K, 1, H, W) on the batch's canonical grid.
        boxes_cxcywh: (K, 4) shares of the image; None without a box head.
        coarse_logits: (K, 1, H, W) of the coarse mask, on the same grid; None without one.
        named_logits: the same of what the targets' names ask for; None without names.
        coarse_peaks, absent_peaks: the surest cells' logits of coarse masks, (K,) of the questions and (A,) of the
            names of what is not there.
        named: (K,) which known thing each answer is about; None where nothing is known.
        agreed: (K,) whether that is sure (`CoarseMask.decide`); None where nothing is known.
        queries, names: (K, E) of questions and of names, which these masks answer.
        seg_weights, box_weights: (K, n), how loud each candidate was.
        seg_states: (K, D), what the mask decoder was prompted with, before its projection.
        teacher_states: (Kt, D), the same for the plain-label queries of the similarity loss; None without any.
        image_states: (R, N, D) last states at the image's positions.
        text_logits: (M, vocabulary) at the M positions that predict an answer token, row by row; None without targets.
    """

    mask_logits: torch.Tensor | None = None
    boxes_cxcywh: torch.Tensor | None = None
    coarse_logits: torch.Tensor | None = None
    named_logits: torch.Tensor | None = None
    coarse_peaks: torch.Tensor | None = None
    absent_peaks: torch.Tensor | None = None
    named: torch.Tensor | None = None
    agreed: torch.Tensor | None = None
    queries: torch.Tensor | None = None
    names: torch.Tensor | None = None
    seg_weights: torch.Tensor | None = None
    box_weights: torch.Tensor | None = None
    seg_states: torch.Tensor | None = None
    teacher_states: torch.Tensor | None = None
    image_states: torch.Tensor | None = None
    text_logits: torch.Tensor | None = None


@dataclass
class Seen:
    """What K questions got.

    Attributes:
        mask_logits: (K, 1, H, W) on the batch's canonical grid, -inf where the model did not point at anything.
        boxes_xyxy_norm: (K, 4) shares of the image, NaN where it did not; None without a box head.
        presence_logit: (K,) of the first candidate against the best other word; with a coarse mask, of its surest cell
            where that is less. At least 0 exactly where the model pointed at something. None in `forced` mode, in which
            it has no choice.
        ids: (K, L) the answers, negative where a row has no token; None where no words were asked for.
        pointed: (K,) whether the words did; None in `forced` mode.
        named: (K,) which of the known things each answer is about, negative where that was not decided.
        agreed: (K,) as in `MediSeeOutput`; False where nothing was decided.
    """

    mask_logits: torch.Tensor
    boxes_xyxy_norm: torch.Tensor | None
    presence_logit: torch.Tensor | None
    ids: torch.Tensor | None
    pointed: torch.Tensor | None
    named: torch.Tensor
    agreed: torch.Tensor


@dataclass(frozen=True)
class Begun:
    """The first n tokens of K answers: candidates, where it was decided that something is there.

    Attributes:
        states: (K, n, D) that predicted them.
        found: (K,) whether they are the candidates.
        presence_logit: as in `Seen`, of the words alone.
        ids: (K, n) the tokens; the last one is not in the cache yet.
        mask: (K, T) which places of the cache hold something.
    """

    states: torch.Tensor
    found: torch.Tensor
    presence_logit: torch.Tensor | None
    ids: torch.Tensor
    mask: torch.Tensor


class MediSee(nn.Module):
    """The network, and by its arguments the networks it is compared with (MediSee, tables 4 and 5).

    Args:
        encoder: image -> maps.
        language: sequence -> hidden states and words; its vocabulary is extended by the candidates.
        prompting: maps and prompts -> masks.
        candidates: n; 1 is the [SEG] token of LISA (Lai et al. 2024).
        gate: of both routers; `hard` gives the first candidate to the mask and the last one to the box.
        router_width, box_width, text_width: hidden sizes of routers, box head and text projection.
        box_head: False: no boxes at all.
        box_prompt: whether the predicted box prompts the mask decoder. Its gradient then reaches the box head.
        coarse_width: of the coarse mask, at which the box starts and of which the mask decoder is told; 0: none, as in
            the paper.

    Attributes:
        mode: how `ask` asks, one of `MODES`.
    """

    def __init__(
        self,
        encoder: SegmentationEncoder,
        language: LanguageBackbone,
        prompting: SamPrompting,
        *,
        candidates: int = 2,
        gate: str = "sigmoid_l1",
        router_width: int = 1024,
        box_width: int = 512,
        text_width: int | None = None,
        box_head: bool = True,
        box_prompt: bool = True,
        coarse_width: int = 0,
    ):
        super().__init__()
        assert box_head or not box_prompt, "a box prompt needs a box head"
        self.encoder, self.language, self.prompting = encoder, language, prompting
        self.candidate_ids = language.extend_vocab(candidates)
        self.heads = Heads(
            language.hidden_width,
            prompting.width,
            candidates=candidates,
            gate=gate,
            router_width=router_width,
            box_width=box_width,
            text_width=text_width,
            box_head=box_head,
            coarse_width=coarse_width,
        )
        self.box_prompt = box_prompt
        self.mode = "free"

    def train(self, mode: bool = True) -> MediSee:
        """As usual, but what is frozen stays in evaluation mode."""
        super().train(mode)
        if mode:
            rest_frozen(self)
        return self

    def encode_image(self, image_BCHW: torch.Tensor, canonical_hw_px: Sequence[tuple[int, int]]) -> Looked:
        """Everything that depends on the image alone: maps, image embeddings (B, N, D), cells of the coarse mask."""
        return self.look(self.encoder.encode(image_BCHW, canonical_hw_px), image_BCHW, canonical_hw_px)

    def look(self, maps: EncodedImage, image_BCHW: torch.Tensor, canonical_hw_px: Sequence[tuple[int, int]]) -> Looked:
        """The same of images whose maps are known."""
        cells = None
        offsets = self.encoder.frame.patch_offsets(maps.features.shape[-1], canonical_hw_px).to(maps.features)
        if self.heads.coarse is not None:
            cells = self.heads.coarse.look(maps.features, offsets).float()
        embeds = self.language.look(image_BCHW, canonical_hw_px)
        if embeds is None:
            seen = [maps.features, offsets] if cells is None else [maps.features, cells, offsets]
            embeds = self.language.embed_image(torch.cat(seen, dim=1))
        return Looked(maps, embeds, cells=cells)

    def forward(
        self,
        image_BCHW: torch.Tensor,
        canonical_hw_px: Sequence[tuple[int, int]],
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        candidate_at: torch.Tensor,
        obj_image: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        target_ids: torch.Tensor | None = None,
        name_ids: torch.Tensor | None = None,
        absent_ids: torch.Tensor | None = None,
        absent_image: torch.Tensor | None = None,
        teacher_at: torch.Tensor | None = None,
        teacher_image: torch.Tensor | None = None,
        encoded: Looked | None = None,
    ) -> MediSeeOutput:
        """One pass over one packed sequence an image.

        Args:
            image_BCHW: canonical float32 images in [0, 1], padded at the bottom and right to a common size.
            canonical_hw_px: rows and columns of each image without padding.
            input_ids, position_ids, target_ids: (B, T), see `prsmed.text.packing`.
            attention_mask: (B, 1, T, T) bool of packed sequences, or (B, T) of single ones.
            candidate_at: (K, n) positions of the states that predict an object's candidates.
            obj_image: (K,) the image, and so the sequence, of each object.
            name_ids: (K, W) words of the targets' names, negative behind the shorter ones; for the coarse mask.
            absent_ids, absent_image: (A, W), (A,) the same of what is not there, and in which image it is not.
            teacher_at, teacher_image: the same for plain-label queries, which give states only.
            encoded: what `encode_image` gave for these images.
        """
        looked, common_hw_px = encoded or self.encode_image(image_BCHW, canonical_hw_px), _hw_px(image_BCHW)
        named = MediSeeOutput()
        if looked.cells is not None and name_ids is not None:
            named.names, logits_KHW = self._named(name_ids, looked.cells, obj_image)
            if absent_ids is not None and absent_image is not None:
                _, absent_KHW = self._named(absent_ids, looked.cells, absent_image)
                centers_BM2 = self.encoder.frame.patch_centers_norm(looked.cells.shape[-1], canonical_hw_px)
                inside_KM = in_image(centers_BM2).to(absent_image.device)[absent_image]
                named.absent_peaks = peaks_of(absent_KHW, inside_KM)
            hw_px = [canonical_hw_px[index] for index in obj_image.tolist()]
            named.named_logits = self.encoder.frame.leave(logits_KHW[:, None], hw_px, common_hw_px)
            if self.training and not _learn(self._readers_of_words()):
                return named
        hidden_BTD, _ = self.language(input_ids, looked.image_embeds, attention_mask, position_ids)
        output = self.point(
            looked, hidden_BTD[obj_image[:, None], candidate_at], obj_image, canonical_hw_px, common_hw_px
        )
        output.names, output.named_logits = named.names, named.named_logits
        output.absent_peaks = named.absent_peaks
        if target_ids is not None:
            predicts = F.pad(target_ids[:, 1:] >= 0, (0, 1))
            output.text_logits = self.language.logits(hidden_BTD[predicts])
        output.image_states = hidden_BTD[input_ids == IMAGE_ID].unflatten(0, (len(input_ids), -1))
        if teacher_at is not None and teacher_image is not None:
            output.teacher_states = self._fused(hidden_BTD[teacher_image[:, None], teacher_at])
        return output

    def _named(
        self, name_ids: torch.Tensor, cells: torch.Tensor, image_K: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What names ask for: queries (K, E), and logits (K, h, w) of their coarse masks."""
        assert self.heads.coarse is not None
        with full_precision(cells):
            names_KE = self.heads.coarse.named(self.language.embed_words(name_ids))
            return names_KE, self.heads.coarse(names_KE, cells, image_K)

    def _readers_of_words(self) -> list[nn.Parameter]:
        """All that learns from questions; the encoder and what is left of the coarse mask can learn from names."""
        of_names = ("coarse.context.", "coarse.cells.", "coarse.named.", "coarse.bias", "coarse.log_sharpness")
        heads = [parameter for name, parameter in self.heads.named_parameters() if not name.startswith(of_names)]
        return [*self.language.parameters(), *heads, *self.prompting.parameters()]

    def point(
        self,
        looked: Looked,
        candidates_KND: torch.Tensor,
        obj_image: torch.Tensor,
        canonical_hw_px: Sequence[tuple[int, int]],
        common_hw_px: tuple[int, int],
        said: Said | None = None,
    ) -> MediSeeOutput:
        """From the candidates' states to boxes, in float32 throughout, and masks, in the precision of the day.

        A box in bf16 would be wrong by up to two of 1024 pixels; a mask's outline hardly moves, in half the time.

        Args:
            said: what the words say of what answers may be about.
        """
        with full_precision(candidates_KND):
            features, frame, boxes_px = looked.maps.features.float(), self.encoder.frame, None
            pointed = self.heads(candidates_KND.float(), looked.cells, obj_image, frame, canonical_hw_px, said)
            if self.box_prompt:
                sides_px = frame.content_xyxy_px(canonical_hw_px).to(candidates_KND.device)
                boxes_px = cxcywh_to_xyxy(pointed.boxes_cxcywh) * sides_px[obj_image]
        hw_px = [canonical_hw_px[index] for index in obj_image.tolist()]
        output = MediSeeOutput(
            boxes_cxcywh=pointed.boxes_cxcywh,
            seg_weights=pointed.seg_weights,
            box_weights=pointed.box_weights,
            seg_states=pointed.seg_states,
            queries=pointed.queries,
            coarse_peaks=pointed.coarse_peaks,
            named=pointed.named,
            agreed=pointed.agreed,
        )
        if self.heads.coarse is not None and pointed.coarse_logits is not None:
            output.coarse_logits = frame.leave(pointed.coarse_logits[:, None], hw_px, common_hw_px)
            prompts = [*self.prompting.parameters(), *self.heads.project.parameters(), self.heads.coarse.shown]
            if self.training and not _learn(prompts):
                return output
        logits = features.new_zeros(0, 1, *(4 * side for side in features.shape[-2:])) + pointed.text_embeds.sum()
        if len(obj_image):  # transformers' decoder cannot draw nothing
            logits, _ = self.prompting(
                features,
                boxes_xyxy_px=boxes_px,
                text_embeds=pointed.text_embeds,
                coarse_embeds=pointed.coarse_embeds,
                obj_image=obj_image,
            )
        output.mask_logits = frame.leave(logits.float(), hw_px, common_hw_px)
        return output

    def _fused(self, candidates_KND: torch.Tensor) -> torch.Tensor:
        with full_precision(candidates_KND):
            return self.heads.seg_router(candidates_KND.float())[0]

    @torch.no_grad()
    def ask(
        self,
        image_BCHW: torch.Tensor,
        canonical_hw_px: Sequence[tuple[int, int]],
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        obj_image: torch.Tensor,
        end_id: int,
        max_new_tokens: int,
        known: Known | None = None,
        encoded: Looked | None = None,
        prefix: ReadPrefix | None = None,
    ) -> Seen:
        """Answer K questions, one row each, by `mode`. What stands before the questions is read once an image.

        Args:
            input_ids, attention_mask: (K, T) of questions without answers, padded on the right.
            obj_image: (K,) which image each asks about.
            max_new_tokens: of the words after the candidates; 0: no words.
            known: what answers may be about. With a coarse mask it is decided which, unless the words are likelier to
                name something else.
            encoded, prefix: what `encode_image` and `language.read_prefix` gave for these images.
        """
        looked = encoded or self.encode_image(image_BCHW, canonical_hw_px)
        if prefix is None:
            shared = int((input_ids[0] == IMAGE_ID).nonzero()[-1]) + 1
            prefix_ids = input_ids[:1, :shared].expand(len(looked.image_embeds), -1)
            prefix = self.language.read_prefix(prefix_ids, looked.image_embeds)
        begin = self._forced if self.mode == "forced" else self._free
        cache = prefix.cache_of(obj_image)
        begun = begin(input_ids[:, prefix.hidden_BPD.shape[1] :], cache, attention_mask, end_id)
        found_K, presence_logit = begun.found, begun.presence_logit
        hw_px, objects = _hw_px(image_BCHW), len(input_ids)
        mask_logits = torch.full((objects, 1, *hw_px), -torch.inf, device=input_ids.device)
        boxes = torch.full((objects, 4), torch.nan, device=input_ids.device)
        named_K, agreed_K = torch.full_like(obj_image, -1), torch.zeros_like(found_K)
        if found_K.any():
            said = None
            if known is not None and looked.cells is not None:
                log_prob_KNL = self.language.likelihoods(cache, begun.mask, begun.ids[:, -1:], known.statement_ids)
                said = known.said(log_prob_KNL, self.language.embed_words(known.name_ids), found_K)
            states_KND = begun.states[found_K]
            output = self.point(looked, states_KND, obj_image[found_K], canonical_hw_px, hw_px, said)
            if presence_logit is not None and output.coarse_peaks is not None:
                presence_logit[found_K] = presence_logit[found_K].minimum(output.coarse_peaks)
            shown_K = torch.ones_like(found_K) if presence_logit is None else presence_logit >= 0
            of_found_K = shown_K[found_K]
            assert output.mask_logits is not None
            if output.named is not None and output.agreed is not None:
                named_K[found_K], agreed_K[found_K] = output.named, output.agreed
            mask_logits[found_K & shown_K] = output.mask_logits[of_found_K]
            if output.boxes_cxcywh is not None:
                boxes[found_K & shown_K] = cxcywh_to_xyxy(output.boxes_cxcywh)[of_found_K]
        ids = self._words(begun, cache, known, named_K, end_id, max_new_tokens) if max_new_tokens else None
        pointed = None if presence_logit is None else found_K
        boxes_xyxy_norm = boxes if self.heads.box_head is not None else None
        return Seen(mask_logits, boxes_xyxy_norm, presence_logit, ids, pointed, named_K, agreed_K)

    def _forced(self, rest_ids: torch.Tensor, cache: Cache, mask: torch.Tensor, end_id: int) -> Begun:
        """The last candidate is left to be read with what follows it, as after generation."""
        count, read = len(self.candidate_ids) - 1, mask.shape[1] - rest_ids.shape[1]
        rows_K1 = torch.arange(len(rest_ids), device=rest_ids.device)[:, None]
        # Each row's candidates follow its own end, so the sequence is exactly the one of training.
        at_KN = mask.sum(dim=1, keepdim=True) + torch.arange(count + 1, device=mask.device)
        said_ids = torch.tensor(self.candidate_ids, device=rest_ids.device).expand(len(rest_ids), -1)
        ids, mask = F.pad(rest_ids, (0, count)), F.pad(mask, (0, count))
        ids[rows_K1, at_KN[:, :-1] - read] = said_ids[:, :-1]
        mask[rows_K1, at_KN[:, :-1]] = True
        hidden_KTD, _ = self.language(ids, None, mask, cache=cache)
        found_K = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        return Begun(hidden_KTD[rows_K1, at_KN - read - 1], found_K, None, said_ids, mask)

    def _free(self, rest_ids: torch.Tensor, cache: Cache, mask: torch.Tensor, end_id: int) -> Begun:
        count = len(self.candidate_ids)
        hidden_KTD, _ = self.language(rest_ids, None, mask, cache=cache)
        last_KD = last_states(hidden_KTD, mask[:, -rest_ids.shape[1] :].bool())
        said = self.language.generate(cache, last_KD, mask, max_new_tokens=count, end_id=end_id)
        found_K = (said.ids == said.ids.new_tensor(self.candidate_ids)[: said.ids.shape[1]]).all(dim=1)
        found_K &= said.ids.shape[1] == count
        states_KND = F.pad(said.hidden, (0, 0, 0, count - said.hidden.shape[1]))
        logits_KV = self.language.logits(said.hidden[:, 0]).float()
        others_KV = logits_KV.index_fill(1, logits_KV.new_tensor(self.candidate_ids[:1]).long(), -torch.inf)
        logit_K = logits_KV[:, self.candidate_ids[0]] - others_KV.amax(dim=1)
        logit_K = torch.where(found_K, logit_K.clamp(min=0), logit_K.clamp(max=-1e-3))
        return Begun(states_KND, found_K, logit_K, said.ids, F.pad(mask, (0, said.ids.shape[1] - 1), value=True))

    def _words(
        self, begun: Begun, cache: Cache, known: Known | None, named_K: torch.Tensor, end_id: int, max_new_tokens: int
    ) -> torch.Tensor:
        """The answers (K, L), negative where a row has no token: a row with a name goes on from its statement."""
        ids, mask = begun.ids[:, -1:], begun.mask
        if known is not None and (named_K >= 0).any():
            statement_KL = known.statement_ids[named_K.clamp(min=0)].masked_fill(named_K[:, None] < 0, -1)
            ids = torch.cat([ids, statement_KL], dim=1)
        is_said_KL, position_K1 = ids >= 0, mask.sum(dim=1, keepdim=True)
        mask = torch.cat([mask.bool(), is_said_KL], dim=1)
        position_KL = position_K1 + torch.arange(ids.shape[1], device=ids.device)
        hidden_KLD, _ = self.language(ids.clamp(min=0), None, mask, position_KL, cache)
        last_KD = last_states(hidden_KLD, is_said_KL)
        rest = self.language.generate(cache, last_KD, mask, max_new_tokens=max_new_tokens, end_id=end_id)
        over_K1 = (begun.ids == end_id).any(dim=1, keepdim=True)
        return torch.cat([begun.ids[:, :-1], ids, rest.ids.masked_fill(over_K1, end_id)], dim=1)


def _learn(parameters: Iterable[nn.Parameter]) -> bool:
    return any(parameter.requires_grad for parameter in parameters)


def _hw_px(image_BCHW: torch.Tensor) -> tuple[int, int]:
    return image_BCHW.shape[-2], image_BCHW.shape[-1]
