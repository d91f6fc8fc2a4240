"""Systems that ran elsewhere: the questions they get, and their tables of answers, good and bad."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.systems import external_record, import_answers, model_info, write_questions
from prsmed.data.manifest import Manifest
from prsmed.data.predictions import PredictionStore
from prsmed.errors import DataError, PrsmedError, RequestError
from prsmed.samples import Item, items_of, truth_of
from prsmed.text.templates import TemplateBank

SLICES = {"axis": "coronal", "with_target": 1, "without_target": 1}


@pytest.fixture
def items(phantom_manifest: Manifest) -> list[Item]:
    """Two pictures, and two coronal slices of a volume, whose pixels are not square."""
    items = items_of(phantom_manifest, "train", slices=SLICES)
    pictures = [item for item in items if item.slice is None][:2]
    return pictures + [item for item in items if item.slice is not None][:2]


@pytest.fixture
def store(tmp_path: Path) -> PredictionStore:
    return PredictionStore(tmp_path / "store", {"name": "outside"})


def table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_grey(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path)


def answered(items: list[Item], manifest: Manifest, folder: Path) -> list[dict[str, str]]:
    """The truth as an external system would hand it in."""
    (folder / "m").mkdir()
    rows = []
    for number, item in enumerate(items):
        write_grey(folder / "m" / f"{number}.png", truth_of(manifest, item)[1].astype(np.uint8) * 255)
        text = f"The {item.target.name} is in the top left, I think."
        rows.append({"key": item.key, "question": "q?", "mask": f"m/{number}.png", "text": text, "presence": "0.75"})
    return rows


def test_masks_and_words_are_stored(
    items: list[Item], store: PredictionStore, phantom_manifest: Manifest, tmp_path: Path
) -> None:
    rows = answered(items, phantom_manifest, tmp_path)
    rows[1] |= {"mask": "", "text": "", "presence": ""}
    import_answers(str(table(tmp_path / "a.csv", rows)), store, items, manifest=phantom_manifest)
    assert len(store) == len(items) == 4
    for item, row in zip(items, rows, strict=True):
        stored, truth_HW = store.get(item.key), truth_of(phantom_manifest, item)[1]
        assert (stored.question, stored.query_kind, stored.model_text) == ("q?", "template", row["text"])
        np.testing.assert_array_equal(stored.soft_HW, truth_HW * np.uint8(255) * bool(row["mask"]))
        assert stored.presence_prob == (0.75 if row["presence"] else None)


@pytest.mark.parametrize("column", ["absent", "empty"])
def test_a_system_without_words_is_silent(
    column: str, items: list[Item], store: PredictionStore, phantom_manifest: Manifest, tmp_path: Path
) -> None:
    rows = answered(items, phantom_manifest, tmp_path)
    for row in rows:
        row["text"] = ""
        if column == "absent":
            del row["text"], row["presence"]
    import_answers(str(table(tmp_path / "a.csv", rows)), store, items, manifest=phantom_manifest)
    assert [store.get(item.key).model_text for item in items] == [None] * 4


def questions(items: list[Item], manifest: Manifest, folder: Path) -> list[dict[str, str]]:
    """Written with the steps of the tiny model, and read again."""
    steps = model_info("tiny")["preprocessing"]
    facts = {"split": "train", "zone_rule": "posmed", "preprocessing": steps, "seed": 0, "long_side_px": 200}
    assert write_questions(str(folder), items, manifest=manifest, bank=TemplateBank.load(), **facts) == len(items)
    with (folder / "questions.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_probe_is_shown_as_it_is_asked(items: list[Item], phantom_manifest: Manifest, tmp_path: Path) -> None:
    base = items[0]
    probe = replace(base, probe="flip", base=base.key, question="Where, then?", edit="mirror")
    rows = questions([base, probe], phantom_manifest, tmp_path)
    assert (rows[1]["key"], rows[1]["question"]) == (f"{base.key}#flip", "Where, then?")
    shown, mirrored = (np.asarray(Image.open(tmp_path / row["image"])) for row in rows)
    np.testing.assert_array_equal(mirrored, shown[:, ::-1])


def test_a_mask_may_be_as_the_picture_was_shown(
    items: list[Item], store: PredictionStore, phantom_manifest: Manifest, tmp_path: Path
) -> None:
    """Drawn on the enlarged pictures of `prsmed questions`, whose pixels are square; scored on the stored grid."""
    rows = questions(items, phantom_manifest, tmp_path)
    assert [row["key"] for row in rows] == [item.key for item in items]
    assert list(rows[0]) == ["key", "image", "modality", "target", "question", "mask", "text", "presence"]
    ratios = []
    for row, item in zip(rows, items, strict=True):
        assert row["question"] and (row["mask"], row["text"], row["presence"]) == ("", "", "")
        truth_HW = truth_of(phantom_manifest, item)[1]
        with Image.open(tmp_path / row["image"]) as shown:
            assert max(shown.size) == 200
            ratios.append((shown.height / shown.width) / (truth_HW.shape[0] / truth_HW.shape[1]))
            drawn = Image.fromarray(truth_HW.astype(np.uint8) * 255).resize(shown.size, Image.Resampling.BILINEAR)
        row["mask"] = row["image"].replace("pictures/", "mask")
        drawn.save(tmp_path / row["mask"])
    assert any(abs(ratio - 1) > 0.1 for ratio in ratios)  # else nothing is shown otherwise than stored
    import_answers(str(table(tmp_path / "a.csv", rows)), store, items, manifest=phantom_manifest)
    for item in items:
        truth_HW, soft_HW = truth_of(phantom_manifest, item)[1], store.get(item.key).soft_HW
        assert soft_HW.shape == truth_HW.shape
        assert (soft_HW >= 128).sum() == pytest.approx(truth_HW.sum(), rel=0.1, abs=4)


def test_corrected_masks_are_read_again(
    items: list[Item], store: PredictionStore, phantom_manifest: Manifest, tmp_path: Path
) -> None:
    path = table(tmp_path / "a.csv", answered(items, phantom_manifest, tmp_path))
    import_answers(str(path), store, items, manifest=phantom_manifest)
    shape = store.get(items[0].key).soft_HW.shape
    write_grey(tmp_path / "m" / "0.png", np.full(shape, 7, np.uint8))
    import_answers(str(path), store, items, manifest=phantom_manifest)
    assert (store.get(items[0].key).soft_HW == 7).all()


def resized(path: Path) -> None:
    with Image.open(path) as mask:
        mask.resize((mask.width, mask.height * 2)).save(path)


def coloured(path: Path) -> None:
    with Image.open(path) as mask:
        mask.convert("RGB").save(path)


def deep(path: Path) -> None:
    with Image.open(path) as mask:
        pixels = np.asarray(mask).astype(np.uint16) * 257
    Image.fromarray(pixels).save(path)


def zero_and_one(path: Path) -> None:
    for mask in path.parent.glob("*.png"):
        with Image.open(mask) as opened:
            pixels = np.asarray(opened) // 255
        write_grey(mask, pixels)


Spoil = Callable[[list[dict[str, str]], Path], object]
BAD: dict[str, tuple[Spoil, type[PrsmedError], str]] = {
    "no mask column": (lambda rows, mask: [row.pop("mask") for row in rows], RequestError, "has no column mask"),
    "no key column": (lambda rows, mask: [row.pop("key") for row in rows], RequestError, "has no column key"),
    "a question left out": (
        lambda rows, mask: rows.pop(),
        RequestError,
        "1 of 4 questions are not answered, the first",
    ),
    "a key twice": (lambda rows, mask: rows.append(rows[0]), RequestError, "twice; drop one of the rows"),
    "a mask elsewhere": (lambda rows, mask: rows[0].update(mask="../0.png"), DataError, "climbs out with '..'"),
    "an absolute path": (lambda rows, mask: rows[0].update(mask=str(mask)), DataError, "absolute path"),
    "a mask that is not there": (lambda rows, mask: mask.unlink(), DataError, "there is no file"),
    "a coloured mask": (lambda rows, mask: coloured(mask), DataError, "expected an 8-bit grey mask"),
    "a mask of 16 bits": (lambda rows, mask: deep(mask), DataError, "expected an 8-bit grey mask"),
    "a mask of another shape": (lambda rows, mask: resized(mask), DataError, "as wide for its height as its picture"),
    "a text file as PNG": (lambda rows, mask: mask.write_text("mask"), DataError, "0.png"),
    "masks of 0 and 1": (lambda rows, mask: zero_and_one(mask), DataError, "write masks as 0 and 255"),
    "presence 7": (lambda rows, mask: rows[0].update(presence="7"), RequestError, "is '7'; expected a number from 0"),
    "presence NaN": (lambda rows, mask: rows[0].update(presence="nan"), RequestError, "is 'nan'; expected a number"),
    "presence in words": (lambda rows, mask: rows[0].update(presence="high"), RequestError, "is 'high'; expected"),
}


@pytest.mark.parametrize(("spoil", "kind", "says"), BAD.values(), ids=BAD.keys())
def test_bad_answers_are_one_clear_error(
    spoil: Spoil,
    kind: type[PrsmedError],
    says: str,
    items: list[Item],
    store: PredictionStore,
    phantom_manifest: Manifest,
    tmp_path: Path,
) -> None:
    rows = answered(items, phantom_manifest, tmp_path)
    spoil(rows, tmp_path / "m" / "0.png")
    path = table(tmp_path / "a.csv", rows)
    with pytest.raises(kind) as raised:
        import_answers(str(path), store, items, manifest=phantom_manifest)
    assert says in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["key,mask,text\n{key},,in the top, left\n", "key,mask,text\n{key},\n"])
def test_rows_of_another_width_are_refused(
    text: str, items: list[Item], store: PredictionStore, phantom_manifest: Manifest, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(text.format(key=items[0].key))
    with pytest.raises(RequestError, match="more or fewer cells than the first line; put quotes around cells"):
        import_answers(str(tmp_path / "a.csv"), store, items[:1], manifest=phantom_manifest)


@pytest.mark.parametrize("content", [None, b"", b"\x89PNG\r\n\xff\xfe", b"key\tmask\n"])
def test_what_is_no_table_is_refused(
    content: bytes | None, items: list[Item], store: PredictionStore, phantom_manifest: Manifest, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(RequestError, match=r"a\.csv: (cannot be read as a CSV of answers|has no column)"):
        import_answers(str(tmp_path / "a.csv"), store, items, manifest=phantom_manifest)


def test_a_system_is_known_by_its_table(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("key,mask\n")
    first = external_record("theirs", str(path))
    assert first == external_record("theirs", str(path)) and first["name"] == "theirs"
    path.write_text("key,mask\na,\n")
    assert external_record("theirs", str(path)) != first
    with pytest.raises(RequestError, match=r"none\.csv: cannot be read"):
        external_record("theirs", str(tmp_path / "none.csv"))
