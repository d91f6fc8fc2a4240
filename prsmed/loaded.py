"""A model in memory: the network, and what its questions need on the way in and its answers on the way out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from prsmed.data.preprocessing import Preprocessing
from prsmed.models.medisee import MediSee
from prsmed.models.prs_med import PRSMed
from prsmed.text.classes import asked_by_name, load_classes
from prsmed.text.encode import TextEncoder, pad_batch
from prsmed.text.grammar import is_plural, plural
from prsmed.text.naming import LESION_WORDS, asking_sentence, first_named
from prsmed.text.patient import side_asked
from prsmed.types import MODALITIES

UNNAMED = "finding"
"""The target of a question that names none."""


class LoadedModel:
    """A network and what its questions need on the way in and out.

    Args:
        network, text, preprocessing: what `Predictor.load` makes from a model folder.
        info: the folder's `model.json`.
    """

    def __init__(
        self,
        network: PRSMed | MediSee,
        text: TextEncoder,
        preprocessing: Preprocessing,
        info: dict[str, Any],
        device: str = "cpu",
    ):
        self.network = network.to(device).eval()
        self.text = text
        self.preprocessing = preprocessing
        self.info = info
        self.device = torch.device(device)

    @property
    def thresholds(self) -> Mapping[str, float]:
        """Of mask and presence probabilities."""
        return self.info["thresholds"]

    @property
    def zone_rule(self) -> str:
        """The rule that names zones."""
        return self.info["zone_rule"]

    def model_record(self) -> dict[str, Any]:
        """Name, version, weights' hash and licence, for the answer."""
        return model_record(self.info)

    @property
    def explains(self) -> bool:
        """Whether its sentences name and explain what was asked for (MediSee), and do not say where it is."""
        return isinstance(self.network, MediSee)

    def name_target(self, question: str, said: str = "") -> tuple[str, str, list[str]]:
        """The target a question is about, its kind, and a warning where the model was not trained on it.

        Args:
            said: the answer of a model that `explains`. Its question may name nothing, or only what lies beside the
                target, so the answer decides.
        """
        known: Mapping[str, str] = self.info.get("targets", {})
        if self.explains and said:
            name = first_named(said, known)
            if unknown := self._unknown_in(question):
                warning = f"the question names the {unknown}, which this model was not trained on"
            elif name:
                return name, known[name], []
            else:
                warning = "the model's sentence names none of the targets it was trained on"
            return unnamed(question, warning)
        words = question.casefold()
        named = [name for name in known if _is_named(name, words)]
        is_about_lesion = LESION_WORDS.search(asking_sentence(words)) is not None
        if named and not (is_about_lesion and all(known[name] == "organ" for name in named)):
            best = max(named, key=lambda name: (name.casefold() in words, len(name)))
            others = [name for name in named if not _is_named(name, best.casefold()) and known[name] == known[best]]
            return best, known[best], [f"only the {best} was looked for, not the {name}" for name in others]
        lesions = [name for name in known if known[name] == "lesion" and _is_said(name, words)]
        if lesions:  # "a tumour in the lungs" is no question about the lungs
            return max(lesions, key=len), "lesion", []
        what = "asks for something in the " + max(named, key=len) + " that is none" if named else "names none"
        warning = f"the question {what} of the targets this model was trained on ({', '.join(sorted(known))})"
        return UNNAMED, "lesion", [warning]

    def _unknown_in(self, question: str) -> str | None:
        """What a question asks for by name and the model cannot know, though the table does."""
        known, words, name = self.info.get("targets", {}), question.casefold(), asked_by_name(question)
        if not known or not name or any(_is_named(target, words) or _is_said(target, words) for target in known):
            return None
        classes = load_classes()
        trained = {one for target in known if (entry := classes.of(target)) for one in (entry.name, *entry.overlaps)}
        entry = classes.of(name)
        return None if entry and entry.name in trained else name

    def side_asked(self, question: str, target: str) -> str | None:
        """The side of the patient that the answer is limited to, see `prsmed.text.patient.side_asked`.

        A question to a model that explains may name the side of what lies beside its target: only its own counts.
        """
        side = side_asked(question)
        return side if not self.explains or side_asked(target) == side else None

    def cautions(self, modality: str, target: str) -> list[str]:
        """What this model does not know of a modality and a target in it, for an answer's warnings."""
        found = []
        if modality not in self.info.get("modalities", MODALITIES):
            found.append(f"this model was not trained on {modality} images")
        shown = self.info.get("targets_by_modality", {}).get(modality)
        if shown is not None and target in self.info.get("targets", {}) and target not in shown:
            found.append(f"this model saw no {target} on {modality} images: what it marks there may be something else")
        datasets = self.info.get("datasets", [])
        if datasets and all(name.startswith("phantom") for name in datasets):
            found.append("this model was trained on generated phantoms only, never on images of patients")
        stated = self.info.get("cautions", {})
        return [*found, *stated.get("any", []), *stated.get(modality, [])]

    def questions(self, question: str, count: int) -> dict[str, Any]:
        """One question, encoded for each of `count` images."""
        encoded = pad_batch([self.text.encode(question)] * count, self.text.pad_id)
        return {"question": [question] * count, **{key: value.to(self.device) for key, value in encoded.items()}}


def unnamed(question: str, why: str) -> tuple[str, str, list[str]]:
    """As `LoadedModel.name_target`, of something marked that has no name: no side is applied to it."""
    side = ["the side that was asked about was not applied"] if side_asked(question) else []
    return UNNAMED, "lesion", [why, *side]


def _is_named(name: str, words: str) -> bool:
    name = name.casefold()
    forms = {name, plural(name), name.removesuffix("s") if is_plural(name) else name}
    return re.search(rf"\b(?:{'|'.join(map(re.escape, forms))})\b", words) is not None


def _is_said(name: str, words: str) -> bool:
    """Whether all words of a name occur, in whatever order and spelling: "a tumor of the lungs" is a lung tumour."""
    said = words.replace("tumor", "tumour")
    return all(_is_named(word, said) for word in name.casefold().replace("tumor", "tumour").split())


def model_record(info: Mapping[str, Any]) -> dict[str, Any]:
    """Name, version, weights' hash and licence of a model folder, from its `model.json`."""
    return {
        "name": info.get("name", info["preset"]),
        "version": info.get("version"),
        "weights_sha256": info["weights"]["sha256"],
        "licence": info.get("licence"),
    }
