"""The list of pretrained bases, and what can be done with them once they are fetched: everything, without a network."""

import re
import socket
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from prsmed.errors import CheckpointError, RequestError
from prsmed.models.adopted import ADOPTED
from prsmed.models.bases import (
    base_file,
    base_folder,
    base_identity,
    base_named,
    cache_folder,
    known_bases,
)
from prsmed.models.presets import PRESETS, build_network, preset_bases


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("somebody asked for a network")

    for function in ("connect", "connect_ex", "bind", "sendto"):
        monkeypatch.setattr(socket.socket, function, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def fetched(no_network):
    """The bases of `small`, where somebody fetched them."""
    try:
        return {name: base_folder(name) for name in preset_bases("small")}
    except CheckpointError as error:
        pytest.skip(f"pretrained weights are not on this machine: {error}")


def test_the_list_says_where_each_file_comes_from(repository: Path):
    listed = yaml.safe_load((repository / "large_files.yml").read_text(encoding="utf-8"))
    assert listed["large_files"] == []  # MONAI's list of fixed addresses; ours are asked of the package index
    for base in known_bases().values():
        assert re.fullmatch("[a-z0-9-]+==[0-9.]+", base.pypi["requirement"])
        assert re.fullmatch("[0-9a-f]{64}", base.sha256) and base.size_bytes > 1 << 20
        assert base.name in preset_bases(base.preset)


def test_presets_stand_on_listed_bases():
    assert preset_bases("tiny") == []
    assert set(preset_bases("small")) == {"smollm2_135m", "lite_medsam"}
    assert {name for _, preset in PRESETS for name in preset_bases(preset)} <= {*known_bases(), *ADOPTED}
    with pytest.raises(RequestError, match="no preset 'huge'; there is: tiny, small"):
        preset_bases("huge")


def test_a_checkpoint_knows_its_base_by_the_published_file():
    base = base_named("lite_medsam")
    assert base_identity("lite_medsam") == {"name": "lite_medsam", "sha256": base.sha256, "licence": "Apache-2.0"}
    with pytest.raises(RequestError, match="no base 'sam'; there is: smollm2_135m, lite_medsam"):
        base_named("sam")


def test_what_is_not_here_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PRSMED_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    for ask in (lambda: base_file("lite_medsam"), lambda: base_folder("smollm2_135m")):
        with pytest.raises(CheckpointError, match="run `prsmed weights fetch small`"):
            ask()


def test_the_fetched_language_model_speaks(fetched):
    folder = fetched["smollm2_135m"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = LlamaForCausalLM.from_pretrained(folder, local_files_only=True)
    text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = torch.tensor([tokenizer.encode(text).ids])
    answer = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    assert tokenizer.decode(answer[0, ids.shape[1] :].tolist()) == "The capital of France is Paris."


def test_the_preset_is_built_without_a_network(fetched):
    network = build_network("prs_med", "small", vocab_size=0)
    parameters = sum(tensor.numel() for tensor in network.language.model.parameters())
    assert parameters > 134_000_000  # SmolLM2-135M, and its adapters
    assert fetched["lite_medsam"].is_dir()
