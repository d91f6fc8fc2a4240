"""Agreement of answers to several wordings, on masks whose overlaps are counted by hand; and the wordings."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from prsmed.errors import DataError
from prsmed.probes import PARAPHRASES
from prsmed.text.templates import TemplateBank
from scripts.compare_wordings import (
    WORDINGS,
    main,
    mask_agreement,
    pair_agreement,
    pictures_with_target,
    questions_about,
    statement,
)
from tests.unit.queries_set import write_query_set


def _row(*columns: int) -> np.ndarray:
    mask_HW = np.zeros((1, 8), dtype=bool)
    mask_HW[0, list(columns)] = True
    return mask_HW


def test_dice_of_all_pairs() -> None:
    """Two and two pixels share one (.5), two and four share two (2 * 2 / 6), two and four share one (2 / 6)."""
    masks = [_row(0, 1), _row(1, 2), _row(0, 1, 6, 7)]
    assert mask_agreement(masks) == pytest.approx((1 / 2 + 2 / 3 + 1 / 3) / 3)
    assert mask_agreement([_row(), _row()]) == 1.0 and mask_agreement([_row(), _row(3)]) == 0.0


def test_what_sentences_state_and_how_often_two_agree() -> None:
    left, also_left = "The polyp is in the top left of the image.", "The polyp is in the upper left of the image."
    none = "No polyp is visible in this image."
    assert statement(left, "polyp") == statement(also_left, "polyp") != statement(none, "polyp")
    assert statement("It is somewhere.", "polyp") is None
    assert pair_agreement(["a", "a", "a"]) == 1 and pair_agreement(["a", "a", "b"]) == pytest.approx(1 / 3)
    assert pair_agreement([None, None]) == 0


def test_five_templates_and_ten_sentences_of_no_template() -> None:
    bank = TemplateBank.load()
    templates = {question for split in bank.splits.values() for question, _ in split.pairs}
    assert len(WORDINGS) == 10 and not set(WORDINGS) & (templates | set(PARAPHRASES))
    for target in ("polyp", "lungs"):
        asked = questions_about(target, "ct", bank)
        assert len(set(asked)) == 15 and all(target in question and "{" not in question for question in asked)
    assert "Would you mind telling me whereabouts the lungs are?" in questions_about("lungs", "ct", bank)


class _Session:
    """Says one thing to questions of more than 60 characters, another to shorter ones, and draws accordingly."""

    def __init__(self, *_: object, **__: object):
        self.asked: list[str] = []

    def ask(self, question: str) -> SimpleNamespace:
        self.asked.append(question)
        place, mask_HW = ("top left", _row(0, 1)) if len(question) > 60 else ("bottom right", _row(1, 2))
        finding = SimpleNamespace(zone=place.replace(" ", "-"))
        thing = SimpleNamespace(mask=mask_HW, findings=[finding])
        shown = "The liver is in the center of the image."
        return SimpleNamespace(objects=[thing], model_text=f"The liver is in the {place} of the image.", text=shown)


def test_each_picture_is_asked_in_every_wording(tmp_path: Path, monkeypatch, capsys) -> None:
    write_query_set(tmp_path / "data", splits=("test", "test", "test", "train"))
    opened: list[_Session] = []

    def load(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(open=lambda *_, **__: opened.append(_Session()) or opened[-1])

    monkeypatch.setattr("scripts.compare_wordings.Predictor.load", load)
    main(tmp_path / "data", pictures=2, seed=0, out=tmp_path / "wordings.json")
    assert len(opened) == 2 and all(len(set(session.asked)) == 15 for session in opened)
    content = json.loads((tmp_path / "wordings.json").read_text(encoding="utf-8"))
    long = [sum(len(question) > 60 for question in session.asked) for session in opened]
    # pairs of one kind have Dice 1, mixed pairs .5; 15 wordings make 105 pairs
    expected = [1 - 0.5 * count * (15 - count) / 105 for count in long]
    assert [one["dice"] for one in content["pictures"]] == pytest.approx(expected) and 0 < long[0] < 15
    assert content["same_zone"] == content["same_zone_by_mask"] == 0 and content["same_zone_shown"] == 1
    expected = [1 - count * (15 - count) / 105 for count in long]
    for name in ("zone", "zone_by_mask"):
        assert [one[name] for one in content["pictures"]] == pytest.approx(expected)
    assert "2 pictures in 15 wordings" in capsys.readouterr().out


def test_a_split_without_a_target_is_refused(tmp_path: Path) -> None:
    manifest = write_query_set(tmp_path / "data")
    absent = tuple(replace(case, targets=(replace(case.targets[0], masks=()),)) for case in manifest.cases)
    with pytest.raises(DataError, match="no picture of split 'test' shows a target; choose another split"):
        pictures_with_target(replace(manifest, cases=absent), "test", 2, seed=0)
