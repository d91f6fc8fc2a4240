"""Stored predictions: what was stored comes back, what a kill left half is asked again, what is not ours is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from prsmed.data.predictions import Prediction, PredictionStore, to_soft
from prsmed.errors import DataError, RequestError

ABOUT = {"system": {"name": "first", "weights_sha256": "aa"}, "split": "test", "thresholds": {"mask": 0.5}}
KEYS = ("hospital/Иванов 文/../t1@axial3", "c2/t1#flip", "c2/t1#paraphrase12", "a\u2028b")


def prediction(key: str, number: int = 0, **changes: object) -> Prediction:
    soft_HW = np.random.default_rng(number).integers(0, 256, (7, 5), dtype=np.uint8)
    said = {"presence_prob": 0.25, "model_text": "Полип слева.\u2028Yes, 文.", **changes}
    return Prediction(key, f"Где\u2028it? {number}", "template", soft_HW, **said)  # type: ignore[arg-type]


def same(one: Prediction, other: Prediction) -> bool:
    facts = [{**vars(prediction), "soft_HW": prediction.soft_HW.tolist()} for prediction in (one, other)]
    return facts[0] == facts[1]


def filled(folder: Path, keys: tuple[str, ...] = KEYS) -> list[Prediction]:
    store = PredictionStore(folder, ABOUT)
    predictions = [prediction(key, number) for number, key in enumerate(keys)]
    for one in predictions:
        store.add(one)
    return predictions


def test_what_was_stored_comes_back(tmp_path: Path) -> None:
    predictions = filled(tmp_path)
    silent = prediction("silent", 9, presence_prob=None, model_text=None)
    PredictionStore(tmp_path, ABOUT).add(silent, rank=3)
    store = PredictionStore(tmp_path)
    assert len(store) == len(KEYS) + 1 and store.about == ABOUT
    assert all(same(store.get(one.key), one) for one in [*predictions, silent])
    assert "elsewhere" not in store
    with pytest.raises(RequestError, match="no prediction for elsewhere; run the evaluation again"):
        store.get("elsewhere")


def test_no_key_is_in_a_file_name(tmp_path: Path) -> None:
    """A key may hold a patient's name, and slashes that would lead out of the folder."""
    filled(tmp_path / "store")
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    masks = [name for name in files if name.startswith("store/masks/")]
    assert len(masks) == len(KEYS)
    assert sorted(set(files) - set(masks)) == ["store/about.json", "store/answers-0.jsonl"]
    assert all(set(Path(name).stem) <= set("0123456789abcdef") for name in masks)


@pytest.mark.parametrize("left", [1, 40, -2, -1])
def test_a_half_written_line_is_cut_and_asked_again(tmp_path: Path, left: int) -> None:
    """A kill within a line: after its first byte, within its key, before its last character, before its end."""
    predictions = filled(tmp_path)
    path = tmp_path / "answers-0.jsonl"
    *whole, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole) + last[:left])
    store = PredictionStore(tmp_path, ABOUT)
    assert len(store) == len(KEYS) - 1 and KEYS[-1] not in store
    store.add(predictions[-1])
    assert path.read_bytes() == b"".join(whole) + last
    assert same(PredictionStore(tmp_path, ABOUT).get(KEYS[-1]), predictions[-1])


def test_a_kill_in_the_very_first_line(tmp_path: Path) -> None:
    predictions = filled(tmp_path, KEYS[:1])
    path = tmp_path / "answers-0.jsonl"
    path.write_bytes(path.read_bytes()[:9])
    store = PredictionStore(tmp_path, ABOUT)
    assert len(store) == 0
    store.add(predictions[0])
    assert len(PredictionStore(tmp_path, ABOUT)) == 1


@pytest.mark.parametrize("line", [b"\0\0\0\n", b'{"key": "a"}\n', b'"\xff"\n'])
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    filled(tmp_path)
    with (tmp_path / "answers-0.jsonl").open("ab") as stream:
        stream.write(line)
    with pytest.raises(DataError, match=r"answers-0.jsonl: holds a damaged line .*; delete .* and run again"):
        PredictionStore(tmp_path, ABOUT)


def test_another_model_is_refused_with_both_remedies(tmp_path: Path) -> None:
    filled(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = {**ABOUT, "system": {"name": "first", "weights_sha256": "bb"}, "split": "val"}
    with pytest.raises(DataError, match=r"\(different: split, system\); choose another --out, or delete the folder"):
        PredictionStore(tmp_path, other)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_folder_in_which_nothing_was_answered_is_free(tmp_path: Path) -> None:
    """A first try that failed at once must not stand in the way of the second."""
    PredictionStore(tmp_path, ABOUT)
    assert PredictionStore(tmp_path, {**ABOUT, "split": "val"}).about["split"] == "val"


def test_a_folder_without_predictions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no predictions .*; run an evaluation first"):
        PredictionStore(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_other_processes_add_is_seen_after_a_refresh(tmp_path: Path) -> None:
    first, second = PredictionStore(tmp_path, ABOUT), PredictionStore(tmp_path, ABOUT)
    second.add(prediction("b"), rank=1)
    assert "b" not in first
    first.refresh()
    assert "b" in first and not (tmp_path / "answers-0.jsonl").exists()


def test_the_latest_answer_counts(tmp_path: Path) -> None:
    store = PredictionStore(tmp_path, ABOUT)
    for number in (1, 2):
        store.add(prediction("a", number))
    assert same(PredictionStore(tmp_path).get("a"), prediction("a", 2))
    assert len((tmp_path / "answers-0.jsonl").read_text().splitlines()) == 2


def test_every_line_is_json_and_one_line_for_every_reader(tmp_path: Path) -> None:
    filled(tmp_path)
    lines = (tmp_path / "answers-0.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["key"] for line in lines] == list(KEYS)


def test_a_half_is_128_and_what_is_less_is_not() -> None:
    """round(255 p): 0.5 gives 127.5, which is rounded up, and the threshold 0.5 cuts at 127.5."""
    soft = to_soft(np.array([0.0, 0.5, np.nextafter(0.498, 0), 1.0, -0.1, 1.1, 0.25]))
    assert soft.dtype == np.uint8
    assert soft.tolist() == [0, 128, 127, 255, 0, 255, 64]
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_soft(levels / 255), levels)
    np.testing.assert_array_equal(to_soft((levels / 255).astype(np.float32)), levels)
