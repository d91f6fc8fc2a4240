"""Train the tokenizer of the tiny preset on the template bank's own sentences.

    python scripts/train_tiny_tokenizer.py --out models/tiny/tokenizer.json

Byte-level BPE: every Unicode text can be encoded and comes back unchanged. The same code and seed give the same file.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from prsmed.text.templates import TemplateBank, rule_text
from prsmed.types import MODALITIES, ZONES, Finding

VOCABULARY_SIZE = 1024
SPECIAL_TOKENS = ("<bos>", "<eos>", "<pad>")
CHAT_PIECES = ("user:", "\nassistant:")
SEED = 0

PHANTOM_TARGETS = ("lung nodule", "brain tumour", "lung opacity", "breast lesion", "polyp", "skin lesion", "lungs")
# Names a user is likely to ask for as well, so that they take few tokens.
OTHER_TARGETS = """
    lesion, tumour, tumor, mass, nodule, cyst, lung tumour, brain metastasis, multiple sclerosis lesion, glioma, stroke,
    haemorrhage, oedema, abscess, ulcer, wound, melanoma, naevus, pneumonia, pneumothorax, pleural effusion, fracture,
    calcification, lymph node, thyroid nodule, heart, aorta, left ventricle, liver, gallbladder, spleen, stomach, colon,
    left kidney, right kidney, adrenal gland, pancreas, bladder, prostate, uterus, left lung, right lung, oesophagus,
    hippocampus, cerebellum, vertebra, femur, optic disc, retinal vessel, surgical instrument
"""
ROUNDS_PER_TARGET = {"phantom": 60, "other": 6}


def sentences(bank: TemplateBank, rng: random.Random) -> Iterator[str]:
    """Questions, answers, choices and rule sentences about every target, phantom targets most often."""
    for names, rounds in (
        (PHANTOM_TARGETS, ROUNDS_PER_TARGET["phantom"]),
        ([name.strip() for name in OTHER_TARGETS.split(",")], ROUNDS_PER_TARGET["other"]),
    ):
        for target in names:
            for _ in range(rounds):
                yield from _dialogue(bank, target, rng)
    yield from CHAT_PIECES * ROUNDS_PER_TARGET["phantom"]


def _dialogue(bank: TemplateBank, target: str, rng: random.Random) -> Iterator[str]:
    modality = rng.choice((*MODALITIES, None))
    for count in (0, 1, 1, 1, 2, rng.randint(3, 6)):
        findings = [_finding(rng.choice(ZONES)) for _ in range(count)]
        turn = bank.question("train", target=target, modality=modality, rng=rng)
        yield turn.question
        yield bank.answer(turn.template_id, target=target, findings=findings, modality=modality, rng=rng)
        yield rule_text(findings, target=target, modality=modality)
    only = [_finding(rng.choice(ZONES))]
    yield bank.choice("train", target=target, modality=modality, findings=only, rng=rng).question


def _finding(zone: str) -> Finding:
    """A one-pixel finding; only its zone matters here."""
    return Finding(zone, "posmed-2", "left", "top", zone == "center", False, (0, 0, 1, 1), (0.5, 0.5), 1)


def train(bank: TemplateBank) -> Tokenizer:
    """A byte-level BPE tokenizer over the bank's sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(bank, random.Random(SEED)), trainer)
    return tokenizer


def main() -> None:
    """Command line: where to write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("models/tiny/tokenizer.json"))
    out = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = train(TemplateBank.load())
    tokenizer.save(str(out), pretty=True)
    print(f"{out}: {tokenizer.get_vocab_size()} pieces")


if __name__ == "__main__":
    main()
