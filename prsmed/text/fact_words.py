"""What the words of a question alone tell of its target: in whose facts of the table such words stand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import Pipeline, make_pipeline

from prsmed.text.classes import asked_by_name, load_classes
from prsmed.types import LATERALITIES


def told_by_facts(questions: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """The log-probability that each of K questions is about the class of each of N names, float64 (K, N).

    Naive Bayes among these classes: multinomial, add-one, all alike before a word is read (McCallum and Nigam 1998).
    It knows the training's facts, not the test's. Nothing is told, all are alike, where a question asks by name: a fact
    never names its own class, so a name stands in the facts of others. Words of kinds, left and right are not counted:
    "the solid organ left of the aorta" would be the spleen. A name that the table does not know gets 1/N.
    """
    entries = [load_classes().of(name) for name in names]
    classes = tuple(sorted({entry.name for entry in entries if entry}))
    told_KN = np.full((len(questions), len(names)), -np.log(len(names)))
    if classes:
        by_class = _reader(classes).predict_log_proba(questions) + np.log(len(classes) / len(names))
        describes_K = [asked_by_name(question) is None for question in questions]
        for number, entry in enumerate(entries):
            if entry:
                told_KN[describes_K, number] = by_class[describes_K, classes.index(entry.name)]
    return told_KN


@cache
def _reader(classes: tuple[str, ...]) -> Pipeline:
    entries = load_classes().entries
    kinds = CountVectorizer().build_analyzer()(" ".join(f"{entry.noun} {entry.group}" for entry in entries.values()))
    words = CountVectorizer(stop_words=[*ENGLISH_STOP_WORDS, *LATERALITIES, *kinds])
    facts = [(fact.says, name) for name in classes for fact in entries[name].facts["train"]]
    sentences, of_class = zip(*facts, strict=True)
    return make_pipeline(words, MultinomialNB(fit_prior=False)).fit(sentences, of_class)
