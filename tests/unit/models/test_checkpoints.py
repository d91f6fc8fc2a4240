"""Model folders: whole or not at all, and never another model's weights."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import prsmed.models.checkpoints as checkpoints
from prsmed.errors import CheckpointError
from prsmed.models.checkpoints import (
    load_training_state,
    load_weights,
    model_folder,
    read_info,
    save_model,
    set_base,
    sha256_of,
    verified_file,
)
from tests.unit.small_networks import TOKENIZER

INFO = {"task": "prs_med", "preset": "tiny", "zone_rule": "posmed"}


class _Tied(nn.Module):
    """Two names for one table, and batch norm's integer counter."""

    def __init__(self, seed: int = 0, width: int = 4):
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Embedding(7, width)
        self.head = nn.Linear(width, 7, bias=False)
        self.head.weight = self.table.weight
        self.norm = nn.BatchNorm1d(width)
        self.norm(torch.randn(5, width))


def _same(first: nn.Module, second: nn.Module) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "best"
    save_model(folder, _Tied(), INFO, tokenizer_file=TOKENIZER, training_state={"epoch": 3, "state": torch.ones(2)})
    return folder


def _rewrite_weights(folder, change):
    """Exchange the weights and the hash that vouches for them."""
    info = read_info(folder)
    path = folder / info["weights"]["file"]
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    info["weights"]["sha256"] = sha256_of(path)
    (folder / "model.json").write_text(json.dumps(info))


def test_a_round_trip_is_exact_bit_by_bit(saved):
    other = _Tied(seed=1)
    assert not _same(_Tied(), other)
    load_weights(saved, other)
    assert _same(_Tied(), other) and other.head.weight is other.table.weight
    assert {key: read_info(saved)[key] for key in INFO} == INFO
    assert len(load_file(verified_file(saved, "weights"))) == len(other.state_dict()) - 1  # the tied table once


def test_half_precision_loads_into_float32(tmp_path):
    save_model(tmp_path / "half", _Tied(), INFO, tokenizer_file=TOKENIZER, half=True)
    other = _Tied(seed=1)
    load_weights(tmp_path / "half", other)
    assert other.table.weight.dtype == torch.float32
    assert torch.equal(other.table.weight, _Tied().table.weight.half().float())
    assert other.norm.num_batches_tracked.dtype == torch.int64


def test_the_tokenizer_is_copied_and_verified(saved):
    assert verified_file(saved, "tokenizer").read_bytes() == TOKENIZER.read_bytes()


def test_the_training_state_is_plain_data(saved, tmp_path, monkeypatch):
    state = load_training_state(saved)
    assert state["epoch"] == 3 and torch.equal(state["state"], torch.ones(2))
    info = read_info(saved)
    path = saved / info["training_state"]["file"]
    torch.save({"epoch": _Tied()}, path)  # needs code to be unpickled
    info["training_state"]["sha256"] = sha256_of(path)
    (saved / "model.json").write_text(json.dumps(info))
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        load_training_state(saved)


def test_a_model_without_training_state_cannot_be_resumed(tmp_path):
    save_model(tmp_path, _Tied(), INFO, tokenizer_file=TOKENIZER)
    with pytest.raises(CheckpointError, match=r"model.json: has no training_state"):
        load_training_state(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"model-\w+.safetensors: missing.*restore the file or train again"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), r"sha256 differs from model.json; the file is damaged"),
        (lambda path: path.write_bytes(b""), r"sha256 differs"),
    ],
    ids=["missing", "truncated", "empty"],
)
def test_damaged_weights(saved, damage, message):
    damage(saved / read_info(saved)["weights"]["file"])
    with pytest.raises(CheckpointError, match=message):
        load_weights(saved, _Tied())


def test_weights_that_are_no_safetensors_though_the_hash_agrees(saved):
    info = read_info(saved)
    path = saved / info["weights"]["file"]
    path.write_bytes(path.read_bytes()[:-5])
    info["weights"]["sha256"] = sha256_of(path)
    (saved / "model.json").write_text(json.dumps(info))
    with pytest.raises(CheckpointError, match=r"not a readable safetensors file .*restore it or train again"):
        load_weights(saved, _Tied())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("norm.weight"), r"missing \['norm.weight'\]"),
        (lambda tensors: tensors.update(more=torch.ones(1)), r"extra \['more'\]"),
        (lambda tensors: tensors.update({"norm.bias": torch.ones(9)}), r"other shape \['norm.bias'\]"),
    ],
    ids=["missing", "extra", "shape"],
)
def test_weights_of_another_network(saved, change, message):
    _rewrite_weights(saved, change)
    network = _Tied(seed=1)
    before = _Tied(seed=1)
    with pytest.raises(CheckpointError, match=rf"does not fit this network: .*{message}.*names the preset"):
        load_weights(saved, network)
    assert _same(network, before)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "7", "null", '{"task": "prs_med"}', '{"task": 1, "preset": 2, "weights": 3, "tokenizer": 4}', "\0"],
)
def test_a_corrupt_description(saved, content):
    (saved / "model.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"model.json: cannot be read .*use a folder that training wrote"):
        load_weights(saved, _Tied())


def test_a_folder_without_a_description(tmp_path):
    with pytest.raises(CheckpointError, match=r"model.json: cannot be read"):
        read_info(tmp_path)


def test_a_description_cannot_point_outside_its_folder(saved, tmp_path):
    info = read_info(saved)
    shutil.move(saved / info["weights"]["file"], tmp_path / "outside.safetensors")
    info["weights"]["file"] = "../outside.safetensors"
    (saved / "model.json").write_text(json.dumps(info))
    with pytest.raises(CheckpointError, match=r"best/outside.safetensors: missing"):
        load_weights(saved, _Tied())


@pytest.mark.parametrize("killed_at", range(4), ids=["weights", "tokenizer", "state", "description"])
def test_a_kill_leaves_the_earlier_model(saved, monkeypatch, killed_at):
    replace, calls = os.replace, []

    def die(source, target):
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        calls.append(target)
        replace(source, target)

    monkeypatch.setattr(checkpoints.os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        save_model(saved, _Tied(seed=1), INFO, tokenizer_file=TOKENIZER, training_state={"epoch": 4})
    monkeypatch.undo()
    network = _Tied(seed=2)
    load_weights(saved, network)
    assert _same(network, _Tied()) and load_training_state(saved)["epoch"] == 3
    save_model(saved, _Tied(seed=1), INFO, tokenizer_file=TOKENIZER)
    load_weights(saved, network)
    assert _same(network, _Tied(seed=1))
    assert len(list(saved.iterdir())) == 3, "what the kill left behind is still there"


def test_a_kill_after_the_description_leaves_the_new_model(saved, monkeypatch):
    def die(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.Path, "unlink", die)
    with pytest.raises(KeyboardInterrupt):
        save_model(saved, _Tied(seed=1), INFO, tokenizer_file=TOKENIZER)
    network = _Tied()
    load_weights(saved, network)
    assert _same(network, _Tied(seed=1))


def test_earlier_files_are_removed_and_others_kept(saved):
    (saved / "LICENSE.weights").write_text("CC0")
    save_model(saved, _Tied(seed=1), INFO, tokenizer_file=TOKENIZER)
    names = sorted(path.name.split("-")[0] for path in saved.iterdir())
    assert names == ["LICENSE.weights", "model", "model.json", "tokenizer"]


def test_a_model_is_found_by_folder_or_by_shipped_name(saved, tmp_path, monkeypatch):
    assert model_folder(saved) == saved
    monkeypatch.setattr(checkpoints, "_SEARCHED", (tmp_path, tmp_path / "none"))
    assert model_folder("best") == saved
    with pytest.raises(CheckpointError, match=r"no model 'bets': it is neither a folder nor one of best; give the"):
        model_folder("bets")
    with pytest.raises(CheckpointError, match="no model"):
        model_folder("no/such/folder")


IDENTITY = {"name": "published", "sha256": "ab" * 32, "licence": "Apache-2.0"}


def _on_base(sha256: str = IDENTITY["sha256"], *, seed: int = 0) -> _Tied:
    network = _Tied(seed=seed)
    set_base(network, [{**IDENTITY, "sha256": sha256}], ["table.weight"])
    return network


def test_what_comes_from_the_base_stays_out_of_the_checkpoint(tmp_path):
    trained = _on_base()
    trained.norm.weight.data.fill_(3)
    save_model(tmp_path, trained, INFO, tokenizer_file=TOKENIZER)
    assert not any(name in load_file(verified_file(tmp_path, "weights")) for name in ("table.weight", "head.weight"))
    assert read_info(tmp_path)["base"] == [IDENTITY]
    other = _on_base(seed=0)
    load_weights(tmp_path, other)
    assert _same(other, trained)


def test_a_part_of_the_base_that_was_trained_is_kept_also_after_loading(tmp_path):
    trained = _on_base()
    trained.table.weight.requires_grad_(True)
    trained.table.weight.data.fill_(2)
    save_model(tmp_path / "first", trained, INFO, tokenizer_file=TOKENIZER)
    other = _on_base(seed=1)
    load_weights(tmp_path / "first", other)
    save_model(tmp_path / "second", other, INFO, tokenizer_file=TOKENIZER)
    third = _on_base(seed=2)
    load_weights(tmp_path / "second", third)
    assert torch.equal(third.table.weight, torch.full_like(third.table.weight, 2.0))


@pytest.mark.parametrize("network", [_Tied(), _on_base("cd" * 32)], ids=["no base", "another base"])
def test_weights_of_another_base_are_refused_with_the_reason(tmp_path, network):
    save_model(tmp_path, _on_base(), INFO, tokenizer_file=TOKENIZER)
    with pytest.raises(CheckpointError, match=r"trained on the base .*abab.*prsmed weights fetch"):
        load_weights(tmp_path, network)
