"""What the words of a question alone tell of its target: in whose facts of the table such words stand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import Pipeline, make_pipeline

from prsmed.text.classes import load_classes


def told_by_facts(questions: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """The log-probability that each of K questions is about the class of each of N names, float64 (K, N).

    Naive Bayes among these classes: multinomial, add-one, all alike before a word is read (McCallum and Nigam 1998).
    Words of kinds are not counted: a question for the solid organ left of the aorta would be about the spleen. It knows
    the training's facts, not the test's. A name that the table does not know gets 1/N, whatever is asked.
    """
    entries = [load_classes().of(name) for name in names]
    classes = tuple(sorted({entry.name for entry in entries if entry}))
    told_KN = np.full((len(questions), len(names)), -np.log(len(names)))
    if classes:
        by_class = _reader(classes).predict_log_proba(questions)
        for number, entry in enumerate(entries):
            if entry:
                told_KN[:, number] = by_class[:, classes.index(entry.name)]
    return told_KN


@cache
def _reader(classes: tuple[str, ...]) -> Pipeline:
    entries = load_classes().entries
    kinds = " ".join(f"{entry.noun} {entry.group}" for entry in entries.values())
    words = CountVectorizer(stop_words=[*ENGLISH_STOP_WORDS, *CountVectorizer().build_analyzer()(kinds)])
    facts = [(fact.says, name) for name in classes for fact in entries[name].facts["train"]]
    sentences, of_class = zip(*facts, strict=True)
    return make_pipeline(words, MultinomialNB(fit_prior=False)).fit(sentences, of_class)
