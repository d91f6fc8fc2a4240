"""Open images and the questions put to them: `Session` for a picture or one slice, `VolumeSession` for a volume."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from prsmed.answers import (
    RawAnswers,
    answer_batch,
    box_contradictions,
    contradictions_of,
    decide,
    detected_box,
    drawn,
    left_out,
    only_on_side,
    side_contradictions,
    soft_mask,
)
from prsmed.data.preprocessing import Prepared
from prsmed.data.slicing import volume_frame
from prsmed.data.writers.answer import write_answer, write_dicom, write_volume
from prsmed.errors import RequestError
from prsmed.geometry import Geometry, mask_to_box
from prsmed.loaded import UNNAMED, LoadedModel, unnamed
from prsmed.samples import findings_of
from prsmed.text.grammar import is_plural
from prsmed.text.naming import first_named
from prsmed.text.patient import SIDE_UNANSWERABLE, expects_side, on_side, side_asked
from prsmed.text.templates import rule_text
from prsmed.types import Answer, AnswerObject, Finding, SliceRef, SourceImage
from prsmed.volumes import (
    Component,
    Components,
    VolumeAnswer,
    VolumeOptions,
    large_enough,
    meant_in,
    statistics_of,
    volume_finding,
    voxel_mm3,
)

Progress = Callable[[int, int], None]

_SHEET_PICTURES = 9


@dataclass(frozen=True)
class StatedModality:
    """One of `MODALITIES`, who said so, and what does not fit."""

    name: str
    source: str
    warnings: tuple[str, ...] = ()


class Session:
    """One open picture or slice: its canonical form, its encoding, and what the language model made of it are kept
    between questions."""

    def __init__(self, model: LoadedModel, prepared: Prepared, modality: StatedModality, position: SliceRef | None):
        self.model = model
        self.source = prepared.image
        self.modality = modality
        self.position = position
        started = time.perf_counter()
        self.canonical, self.geometry = prepared.slice(position)
        self._image_BCHW = self.canonical[None].to(model.device)
        with torch.no_grad():
            self._encoded = model.network.encode_image(self._image_BCHW, [self.geometry.canonical_hw_px])
        encoded = time.perf_counter()
        prefix_ids = model.text.prefix_ids[None].to(model.device)
        self._prefix = model.network.language.read_prefix(prefix_ids, self._encoded.image_embeds)
        self.timings_s = {"encode": encoded - started, "prefill": time.perf_counter() - encoded}

    @property
    def picture(self) -> np.ndarray:
        """The canonical image on the slice picture's grid, uint8 (H, W, 3), for display."""
        return shown_picture(self.canonical, self.geometry)

    def ask(self, question: str, *, progress: Progress | None = None) -> Answer:
        """Answer one question.

        Args:
            progress: as of `VolumeSession.ask`; one picture is one step, so it is not called.

        Raises:
            RequestError: the question is empty or too long.
        """
        model, geometry = self.model, self.geometry
        raw = self.raw(question)
        assert raw.texts is not None
        target, kind, warnings = self.name_target(question, raw)
        side, elsewhere = model.side_asked(question, target), 0
        thing = decide(
            soft_mask(raw.mask_prob[0], geometry),
            float(raw.presence_prob[0]),
            kind=kind,
            thresholds={**model.thresholds, "region": 0.0} if side else model.thresholds,
            zone_rule=model.zone_rule,
            spacing_hw_mm=geometry.spacing_hw_mm,
            patient_axes=geometry.patient_axes,
        )
        if side:
            thing, notes, elsewhere = only_on_side(
                thing,
                side,
                kind=kind,
                zone_rule=model.zone_rule,
                geometry=geometry,
                region_share=model.thresholds.get("region", 0.0),
            )
            warnings = [*warnings, *notes]
        return self.state(
            question, raw, thing, target=target, kind=kind, warnings=warnings, side=side, elsewhere=elsewhere
        )

    def raw(self, question: str) -> RawAnswers:
        """What the network draws and says, before any decision."""
        batch = {**self.model.questions(question, 1), "image": self._image_BCHW, "geometry": [self.geometry]}
        known, maps, prefix = self.model.info.get("targets", ()), self._encoded, self._prefix
        return answer_batch(self.model.network, batch, self.model.text, encoded=maps, prefix=prefix, names=known)

    def state(
        self,
        question: str,
        raw: RawAnswers,
        thing: AnswerObject,
        *,
        target: str,
        kind: str,
        warnings: Sequence[str],
        contradictions: Sequence[str] = (),
        side: str | None = None,
        elsewhere: int = 0,
    ) -> Answer:
        """The answer: the model's words beside what was decided of its mask, and where the two disagree.

        A sentence about a position knows the picture only. Where the file states how that lies in the patient, or one
        side of the patient was asked about, the rule's sentence is shown, which says both.

        Args:
            side, elsewhere: the side of the patient that was asked about, and how much was drawn on the other one.
        """
        assert raw.texts is not None
        modality = self.modality
        side_expected = expects_side(modality.name)
        from_rule = rule_text(thing.findings, target=target, modality=modality.name, side_expected=side_expected)
        if not thing.findings and (side or target == UNNAMED):  # "no finding" would be said of the whole image
            nothing = "What was asked for is not" if target == UNNAMED else _no(target)
            place = f"on the patient's {side}" if side else "in this image"
            from_rule = f"{nothing} visible {place}."
            from_rule += " Something was marked on the other side." if elsewhere else ""
        in_patient = side is not None or any(finding.frame != "picture" for finding in thing.findings)
        explains = self.model.explains
        overruled = self._denies_words(raw)
        contradictions = [
            *contradictions,
            *contradictions_of(
                raw.texts[0],
                thing,
                target=target,
                names=self.model.info.get("targets", {}),
                states_position=not explains,
                overruled=overruled,
            ),
            *side_contradictions(thing, target),
        ]
        if raw.doubtful(0) and thing.mask.any() and not first_named(raw.texts[0], self.model.info.get("targets", {})):
            contradictions.append("the model's sentence names nothing that it was trained on")
        if explains and elsewhere and not thing.findings:
            contradictions.append(f"the model's sentence points at something, but not on the patient's {side}")
        if thing.present:
            thing.detected_box_xyxy_px = detected_box(raw, 0, self.geometry.slice_hw_px)
        # A box elsewhere says nothing against the sentence: it is told, and the sentence stays.
        by_rule = bool(contradictions) or (in_patient and not explains)
        return Answer(
            question=question,
            model_text=raw.texts[0],
            rule_text=from_rule,
            text=from_rule if by_rule else raw.texts[0],
            text_source="rule" if by_rule else "model",
            objects=[thing],
            contradictions=[*contradictions, *box_contradictions(thing)],
            modality=modality.name,
            modality_source=modality.source,
            timings_s={name: round(value, 4) for name, value in {**self.timings_s, **raw.timings_s}.items()},
            model=self.model.model_record(),
            key_slice=self.position,
            warnings=[*self.source.notes, *modality.warnings, *warnings, *self.model.cautions(modality.name, target)],
            target=target,
            kind=kind,
        )

    def name_target(self, question: str, raw: RawAnswers) -> tuple[str, str, list[str]]:
        """As `LoadedModel.name_target`; words that the network itself denies name nothing."""
        assert raw.texts is not None
        if self._denies_words(raw):
            return self.model.name_target(question)
        if raw.doubtful(0):  # the question's own words name nothing either: they may be about what lies beside
            return unnamed(question, "what is marked has no name: the model is not sure enough what is meant")
        return self.model.name_target(question, (raw.named and raw.named[0]) or raw.texts[0])

    def _denies_words(self, raw: RawAnswers) -> bool:
        """Whether the words point at something and the network all the same says that it is not there."""
        pointed = raw.pointed is not None and bool(raw.pointed[0])
        return pointed and float(raw.presence_prob[0]) < self.model.thresholds["presence"]

    def write(self, folder: Path, answer: Answer, *, dicom: bool = False) -> None:
        """Write answer.json, mask.png and overlay.png into a folder, and on request a DICOM SEG and SR.

        Raises:
            DataError: the folder cannot be written.
            RequestError: DICOM is asked for and the image was none.
        """
        files = {}
        if dicom:
            require_dicom(self.source)
            side = self.model.side_asked(answer.question, answer.target)
            mask = self.geometry.mask_to_source(answer.objects[0].mask)
            files = write_dicom(folder, answer, mask, self.source, target=answer.target, kind=answer.kind, side=side)
        write_answer(folder, answer, self.picture, files=files)


def _no(target: str) -> str:
    return f"No {target} {'are' if is_plural(target) else 'is'}"


def shown_picture(canonical_CHW: torch.Tensor, geometry: Geometry) -> np.ndarray:
    """A canonical image on the slice picture's grid, uint8 (H, W, 3)."""
    resized = torch.nn.functional.interpolate(canonical_CHW[None], size=geometry.slice_hw_px, mode="bilinear")[0]
    return (resized.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def require_dicom(source: SourceImage) -> None:
    """Raise RequestError where an image did not come from DICOM: its results cannot be DICOM either."""
    if source.series is None:
        raise RequestError(f"{source.path}: is not DICOM, so there is no series to refer to; leave --dicom away")


class VolumeSession:
    """One open volume: every slice along one axis is asked, and the answer is about the volume.

    Slices are converted and asked in batches, for their masks only; the key slice alone is asked for its sentence. What
    grows with the number of slices is the mask, one byte a voxel.
    """

    def __init__(self, model: LoadedModel, prepared: Prepared, modality: StatedModality, options: VolumeOptions):
        self.model = model
        self.prepared = prepared
        self.source = prepared.image
        self.modality = modality
        self.options = options
        self.frame = volume_frame(self.source, SliceRef(options.axis, 0))

    def ask(self, question: str, *, progress: Progress | None = None) -> VolumeAnswer:
        """Answer one question about the whole volume.

        Something is present where a component remains after cleaning. The key slice is the one with most of the
        largest finding; where nothing is found, the one with the highest presence probability.

        Args:
            progress: called after every batch with the number of slices asked, and of all.

        Raises:
            RequestError: the question is empty or too long.
        """
        started = time.perf_counter()
        mask_ijk, presence_prob_S, meant, notes = self._draw(question, progress)
        components = Components(mask_ijk, self.frame.array_axis)
        kept = large_enough(components.found, self.options, voxel_mm3(self.frame.affine_ijk_to_ras))
        removed = len(components.found) - len(kept)
        if meant and kept:
            target, kind, warnings = self.model.name_target(question, meant)
        else:
            target, kind, warnings = self._name_target(question, components, kept, presence_prob_S)
        warnings = [*notes, *warnings]
        contradictions = [] if kept else self._overruled(presence_prob_S)
        side, elsewhere = self.model.side_asked(question, target), 0
        if side:
            kept, notes, elsewhere = self._only_on_side(components, kept, side)
            warnings = [*warnings, *notes]
        asked_for, kept = kept, kept[: self.options.keep_largest]  # the largest of the side that was asked about
        removed += len(asked_for) - len(kept)
        parts = [components.merged(kept)] if kept and kind == "organ" else kept
        findings = [
            volume_finding(part, self._words(components, part, part.key_slice), number=number, frame=self.frame)
            for number, part in enumerate(parts, start=1)
        ]
        index = findings[0].key_slice if findings else int(presence_prob_S.argmax())
        shown = [self._words(components, part, index, kind) for part in parts if index in part.area_px]
        components.keep(kept)
        masks_s = time.perf_counter() - started
        key = self._slice_session(index)
        assert key.geometry.volume is not None
        mask_HW = key.geometry.volume.take(mask_ijk)
        thing = AnswerObject(mask_HW, mask_to_box(mask_HW), bool(findings), float(presence_prob_S[index]), shown)
        answer = key.state(
            question,
            key.raw(question),
            thing,
            target=target,
            kind=kind,
            warnings=warnings,
            contradictions=contradictions,
            side=side,
            elsewhere=elsewhere,
        )
        answer.timings_s["volume"] = round(masks_s, 4)
        answer.volume_statistics = statistics_of(
            findings,
            options=self.options,
            removed=removed,
            presence_prob_S=presence_prob_S,
            presence_threshold=self.model.thresholds["presence"],
            side=side,
        )
        return VolumeAnswer(**vars(answer), mask_ijk=mask_ijk)

    def _draw(self, question: str, progress: Progress | None) -> tuple[np.ndarray, np.ndarray, str | None, list[str]]:
        """The mask of every slice in one bool volume, laid out as the image is, each slice's presence, what the slices
        are sure of, and warnings. Slices about another thing are left out."""
        array, model = self.source.array, self.model
        # a small region may be the only one on the side that is asked about
        thresholds = {**model.thresholds, "region": 0.0} if side_asked(question) else model.thresholds
        # Pages of zeros that are never written take no memory.
        mask_ijk = np.zeros(array.shape, dtype=bool, order="F" if array.flags.f_contiguous else "C")
        presence_prob_S = np.zeros(array.shape[self.frame.array_axis])
        total, decided = len(presence_prob_S), dict[int, tuple[str | None, bool]]()
        for start in range(0, total, self.options.batch_size):
            indices = range(start, min(start + self.options.batch_size, total))
            images, geometries = zip(
                *(self.prepared.slice(SliceRef(self.options.axis, index)) for index in indices), strict=True
            )
            batch = {
                **model.questions(question, len(indices)),
                "image": torch.stack(images).to(model.device),
                "geometry": geometries,
            }
            known = model.info.get("targets", ())
            raw = answer_batch(model.network, batch, model.text, words=False, names=known)
            for row, index in enumerate(indices):
                presence_prob_S[index] = float(raw.presence_prob[row])
                soft_HW = soft_mask(raw.mask_prob[row], geometries[row])
                mask_HW, is_present = drawn(soft_HW, presence_prob_S[index], thresholds)
                if is_present and mask_HW.any():
                    geometries[row].volume.put(mask_HW, mask_ijk)
                    decided[index] = raw.named[row] if raw.named else None, not raw.doubtful(row)
            if progress:
                progress(indices.stop, total)
        meant, others = meant_in(decided)
        for index in others:
            mask_ijk[(slice(None),) * self.frame.array_axis + (index,)] = False
        names = ", ".join(sorted({name or UNNAMED for name in others.values()}))
        notes = [f"in some slices the model took another thing for what is meant ({names}): left out"] if others else []
        return mask_ijk, presence_prob_S, meant, notes

    def _slice_session(self, index: int) -> Session:
        return Session(self.model, self.prepared, self.modality, SliceRef(self.options.axis, index))

    def _name_target(
        self, question: str, components: Components, kept: list[Component], presence_prob_S: np.ndarray
    ) -> tuple[str, str, list[str]]:
        """As `LoadedModel.name_target`; where the model's answer decides, its answer about the slice with most mask."""
        if not self.model.explains:
            return self.model.name_target(question)
        index = components.merged(kept).key_slice if kept else int(presence_prob_S.argmax())
        session = self._slice_session(index)
        return session.name_target(question, session.raw(question))

    def _overruled(self, presence_prob_S: np.ndarray) -> list[str]:
        """Said where the presence head sees something in some slices and nothing that counts was drawn."""
        slices = int((presence_prob_S >= self.model.thresholds["presence"]).sum())
        if not slices:
            return []
        return [
            f"the presence head says that something is visible in {slices} of {len(presence_prob_S)} slices, but no"
            f" component of {self.options.min_volume_mm3:g} mm3 or more was drawn"
        ]

    def _findings(self, mask_HW: np.ndarray, kind: str, index: int) -> list[Finding]:
        frame = replace(self.frame, index=index)
        return findings_of(
            mask_HW,
            kind,
            zone_rule=self.model.zone_rule,
            spacing_hw_mm=frame.spacing_hw_mm,
            patient_axes=frame.patient_axes(self.source.laterality or ""),
        )

    def _words(self, components: Components, part: Component, index: int, kind: str = "organ") -> Finding:
        """Where a component lies, as one slice shows it: all its regions there, or of a lesion the largest."""
        slab = components.slab(part, index)
        return self._findings(replace(self.frame, index=0).take(slab), kind, index)[0]

    def _only_on_side(
        self, components: Components, kept: list[Component], side: str
    ) -> tuple[list[Component], list[str], int]:
        words = {part.numbers: self._words(components, part, part.key_slice) for part in kept}
        on_it, unknown = on_side(list(words.values()), side)
        if unknown:
            return kept, [f"the question about the patient's {side} side {SIDE_UNANSWERABLE}"], 0
        note = f"only the patient's {side} side was asked about; presence probabilities are those of whole slices"
        there = [part for part in kept if words[part.numbers] in on_it]
        elsewhere = len(kept) - len(there)
        return there, [note, *left_out(elsewhere)], elsewhere

    def write(self, folder: Path, answer: Answer, *, dicom: bool = False) -> None:
        """Write the volume's mask beside answer.json, the key slice's mask.png and overlay.png, and a sheet of slices.

        Raises:
            DataError: the folder cannot be written.
            RequestError: DICOM is asked for and the volume was none.
        """
        assert isinstance(answer, VolumeAnswer), "an answer of this session"
        files: dict[str, str] = {}
        if dicom:  # first: it may be refused, and then nothing else is to lie in the folder
            require_dicom(self.source)
            named = {"target": answer.target, "kind": answer.kind}
            side = self.model.side_asked(answer.question, answer.target)
            files |= write_dicom(folder, answer, answer.mask_ijk, self.source, **named, side=side)
        files |= write_volume(folder, answer.mask_ijk, self.source, slices=self._sheet(answer))
        assert answer.key_slice is not None
        write_answer(folder, answer, shown_picture(*self.prepared.slice(answer.key_slice)), files=files)

    def _sheet(self, answer: VolumeAnswer) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Caption, picture and mask of the key slices of the largest findings; of the answer's where there is none."""
        assert answer.key_slice is not None and answer.volume_statistics is not None
        captions: dict[int, str] = {}
        for finding in answer.volume_statistics["findings"][:_SHEET_PICTURES]:
            index, told = finding["key_slice"], f"finding {finding['number']}, {finding['volume_ml']:.3g} ml"
            captions[index] = f"{captions[index]}; {told}" if index in captions else told
        sheet = []
        for index, caption in (captions or {answer.key_slice.index: "nothing marked"}).items():
            canonical_CHW, geometry = self.prepared.slice(SliceRef(self.options.axis, index))
            assert geometry.volume is not None
            picture_HWC, mask_HW = shown_picture(canonical_CHW, geometry), geometry.volume.take(answer.mask_ijk)
            sheet.append((f"{self.options.axis} slice {index}: {caption}", picture_HWC, mask_HW))
        return sheet
