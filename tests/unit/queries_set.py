"""A small data set with questions of its own: two organs on each of four pictures, one of them not square."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from prsmed.data.manifest import Manifest, read_manifest

HW = ((48, 64), (64, 64), (64, 40), (64, 64))


def write_query_set(folder: Path, *, splits: tuple[str, ...] = ("train", "train", "val", "test")) -> Manifest:
    """Liver: a bright square at the top left. Spleen: a grey disc at the bottom right; not in the second picture."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, ((height, width), split) in enumerate(zip(HW, splits, strict=True)):
        rows_HW, columns_HW = np.mgrid[:height, :width]
        liver = (rows_HW >= 6) & (rows_HW < 24) & (columns_HW >= 5) & (columns_HW < 21)
        spleen = (rows_HW - (height - 14)) ** 2 + (columns_HW - (width - 12)) ** 2 < 81
        has_spleen = number != 1
        picture = np.full((height, width), 20, dtype=np.uint8)
        picture[liver] = 230
        if has_spleen:
            picture[spleen] = 130
        _write(folder / f"image{number}.png", picture)
        _write(folder / f"liver{number}.png", liver * np.uint8(255))
        _write(folder / f"spleen{number}.png", spleen * np.uint8(255 * has_spleen))
        targets = [_target("t1", "liver", f"liver{number}.png")]
        targets += [_target("t2", "spleen", f"spleen{number}.png")] if has_spleen else []
        rows.append(_row(number, split, targets, has_spleen))
    (folder / "roots.json").write_text('{"here": "."}')
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_manifest(folder)


def _row(number: int, split: str, targets: list[dict], has_spleen: bool) -> dict:
    queries = [
        _query("q1", ["t1"], "naming", "short", "Show me the liver.", "This is the liver."),
        _query("q2", ["t1"], "attribute", "long", "Which organ makes bile, and stores sugar?", "This is the liver."),
        _query("q3", ["t1"], "location", "short", "What lies to the top left?", "This is the liver: it lies there."),
    ]
    if has_spleen:
        queries += [
            _query("q4", ["t2"], "naming", "short", "Show me the spleen.", "This is the spleen."),
            _query("q5", ["t2"], "attribute", "short", "Which organ filters blood?", "This is the spleen."),
            _query("q6", ["t1", "t2"], "naming", "long", "Show both organs.", "These are the liver and spleen."),
        ]
    else:
        denied = "There is no spleen to be seen in this image."
        queries.append(_query("q4", [], "naming", "short", "Show me the spleen.", denied))
    return {
        "schema_version": 1,
        "id": f"case{number}",
        "root": "here",
        "image": f"image{number}.png",
        "dicom_modality": None,
        "modality": "ct",
        "dataset": "made",
        "split": split,
        "group": f"patient{number}",
        "series_uid": None,
        "slice": None,
        "targets": targets,
        "queries": queries,
        "source": {"licence": "CC0"},
    }


def _target(target_id: str, name: str, mask: str) -> dict:
    return {"id": target_id, "name": name, "kind": "organ", "laterality": None, "masks": [{"png": mask}]}


def _query(query_id: str, target_ids: list[str], kind: str, length: str, question: str, answer: str) -> dict:
    return {
        "id": query_id,
        "target_ids": target_ids,
        "kind": kind,
        "length": length,
        "question": question,
        "answer": answer,
        "made_by": "a test",
        "review": None,
    }


def _write(path: Path, pixels_HW: np.ndarray) -> None:
    Image.fromarray(pixels_HW).save(path)


def write_shapes(folder: Path, *, count: int = 8, side: int = 64) -> Manifest:
    """Pictures of one bright ellipse each, called liver, of another place and size in every one; all in train."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    rows_HW, columns_HW = np.mgrid[:side, :side]
    for number in range(count):
        radius_y, radius_x = rng.uniform(0.12, 0.28, 2) * side
        y, x = (rng.uniform(radius, side - radius) for radius in (radius_y, radius_x))
        mask = ((rows_HW - y) / radius_y) ** 2 + ((columns_HW - x) / radius_x) ** 2 < 1
        _write(folder / f"image{number}.png", np.where(mask, 200, rng.integers(10, 60, mask.shape)).astype(np.uint8))
        _write(folder / f"liver{number}.png", mask * np.uint8(255))
        row = _row(number, "train", [_target("t1", "liver", f"liver{number}.png")], has_spleen=False)
        rows.append({**row, "queries": row["queries"][:1]})
    (folder / "roots.json").write_text('{"here": "."}')
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_manifest(folder)
