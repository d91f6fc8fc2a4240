"""What is asked, what is stored of it, and how an evaluation is named; whole evaluations are in tests/workflow."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from bundle.evaluation import (
    PredictionWriter,
    evaluation_name,
    items_to_ask,
    missing_from,
    open_store,
    parent_tags,
    predict_baseline,
    run_evaluation,
    stored_info,
    training_masks,
)
from bundle.scoring import Truths
from prsmed.answers import RawAnswers
from prsmed.data.manifest import Manifest
from prsmed.data.predictions import Prediction, PredictionStore
from prsmed.errors import DataError
from prsmed.geometry import Geometry
from prsmed.samples import Item
from prsmed.text.templates import TEMPLATES_PATH, TemplateBank

SLICES = {"axis": "axial", "with_target": 1, "without_target": 0}
GATES = {"per_gate": 2, "thresholds": {}}
INFO = {"thresholds": {"mask": 0.5, "presence": 0.5}, "zone_rule": "posmed", "preprocessing": []}
BLACK = np.zeros((3, 4), dtype=np.uint8)
SYSTEM = {"name": "first", "weights_sha256": "aa"}
BANK = TemplateBank.load()
OTHERS = replace(BANK, splits={**BANK.splits, "test": replace(BANK.splits["test"], pairs=BANK.splits["train"].pairs)})


def asked(manifest: Manifest, gates: dict | None = None, seed: int = 0) -> list[Item]:
    bank = TemplateBank.load()
    options = {"slices": SLICES, "gates": gates, "bank": bank, "zone_rule": "posmed", "seed": seed}
    return items_to_ask(manifest, "test", truths=Truths(manifest), **options)


def opened(folder: Path, manifest: Manifest, items: list[Item], **changes: object) -> PredictionStore:
    facts = {"split": "test", "seed": 0, "system": SYSTEM, "info": INFO, "bank": BANK, **changes}
    return open_store(str(folder), items=items, manifest=manifest, **facts)  # type: ignore[arg-type]


def test_probes_follow_the_questions_of_the_split(phantom_manifest: Manifest) -> None:
    plain, all_ = asked(phantom_manifest), asked(phantom_manifest, GATES)
    assert all_[: len(plain)] == plain and not any(item.probe for item in plain)
    probes = {item.probe for item in all_[len(plain) :]}
    assert {"plain", "flip", "blank", "noise", "injection", "paraphrase"} <= probes and "" not in probes
    assert len({item.key for item in all_}) == len(all_)
    assert asked(phantom_manifest, GATES) == all_


def test_a_store_tells_what_it_was_made_with(phantom_manifest: Manifest, tmp_path: Path) -> None:
    items = asked(phantom_manifest)
    opened(tmp_path, phantom_manifest, items)
    info = stored_info(str(tmp_path))
    assert {name: info[name] for name in INFO} == INFO
    assert (info["system"], info["split"]) == (SYSTEM, "test")
    assert info["data_fingerprint"] == phantom_manifest.fingerprint()
    with pytest.raises(DataError, match="run an evaluation first"):
        stored_info(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("changes", "different"),
    [
        ({"system": {"name": "second"}}, "system"),
        ({"split": "val"}, "split"),
        ({"seed": 1}, "questions_sha256"),
        ({"bank": OTHERS}, "questions_sha256"),
        ({"info": {**INFO, "zone_rule": "mmrs"}}, "zone_rule"),
        ({"words": False}, "words"),
        ({"info": {**INFO, "thresholds": {"mask": 0.5, "presence": 0.6}}}, "thresholds"),
    ],
)
def test_two_evaluations_do_not_share_a_folder(
    changes: dict, different: str, phantom_manifest: Manifest, tmp_path: Path
) -> None:
    items = asked(phantom_manifest)
    opened(tmp_path, phantom_manifest, items).add(Prediction(items[0].key, "?", "template", BLACK, None, None))
    varied = TemplateBank.load(TEMPLATES_PATH.with_name("varied_templates.json"))
    for same in ({}, {"bank": varied}):  # other questions for training alone: the same one goes on
        assert len(opened(tmp_path, phantom_manifest, items, **same)) == 1
    with pytest.raises(DataError, match=rf"\(different: {different}\); choose another --out, or delete the folder"):
        opened(tmp_path, phantom_manifest, items, **changes)
    with pytest.raises(DataError, match=r"different: questions_sha256"):
        opened(tmp_path, phantom_manifest, asked(phantom_manifest, GATES))


def test_baselines_answer_what_is_missing(phantom_manifest: Manifest, tmp_path: Path) -> None:
    items = asked(phantom_manifest, GATES)
    store = opened(tmp_path, phantom_manifest, items)
    settings = {
        "manifest": phantom_manifest,
        "truths": Truths(phantom_manifest),
        "slices": SLICES,
        "zone_rule": "posmed",
    }
    predict_baseline("oracle", store, items[:5], **settings)  # type: ignore[arg-type]
    assert missing_from(store, items) == list(range(5, len(items)))
    predict_baseline("oracle", store, items, **settings)  # type: ignore[arg-type]
    assert missing_from(store, items) == []
    lines = (store.folder / "answers-0.jsonl").read_text().splitlines()
    kinds = {line["key"]: line["query_kind"] for line in map(json.loads, lines)}
    assert len(lines) == len(kinds)
    assert kinds == {item.key: "probe" if item.probe else "template" for item in items}


def test_baselines_learn_from_the_training_split(phantom_manifest: Manifest) -> None:
    training = training_masks(phantom_manifest, slices=SLICES, zone_rule="posmed")
    cases = [case for case in phantom_manifest.split("train") if case.modality == "endoscopy"]
    seen = training.of("endoscopy", "polyp")
    assert len(seen.masks) + seen.absent == sum(target.name == "polyp" for case in cases for target in case.targets) > 0


def test_answers_are_stored_batch_by_batch(tmp_path: Path) -> None:
    store = PredictionStore(tmp_path, {})
    engine = Engine(
        lambda engine, batch: {"pred": RawAnswers(torch.full((2, 1, 3, 4), 0.5), torch.zeros(2), ["a", "b"])}
    )
    PredictionWriter(store).attach(engine)
    facts = {"question": ["q"] * 2, "query_kind": ["template"] * 2, "geometry": [Geometry((3, 4), (3, 4))] * 2}
    engine.run([{"key": [f"{batch}", f"{batch}+"], **facts} for batch in (0, 1)])
    again = PredictionStore(tmp_path, {})
    assert len(again) == 4
    assert [again.get(key).model_text for key in ("0", "0+", "1", "1+")] == ["a", "b"] * 2
    np.testing.assert_array_equal(again.get("1+").soft_HW, np.full((3, 4), 128))


def test_an_evaluation_is_linked_to_its_training() -> None:
    assert parent_tags("abc") == {"mlflow.parentRunId": "abc"}
    assert parent_tags(None) == {}


def test_an_evaluation_s_name_has_its_model_split_and_time() -> None:
    assert re.fullmatch(r"first-val-\d{8}-\d{6}", evaluation_name(SYSTEM, "val"))


def test_a_config_s_own_errors_come_out_as_themselves(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="prsmed data build"):
        run_evaluation(
            repository / "configs" / "evaluate.json",
            manifest={"_target_": "prsmed.data.manifest.read_manifest", "folder": str(tmp_path)},
            evaluating=["$@manifest"],
        )
