"""What a person reads when a run fails."""

import logging
import sys

import pytest

from bundle.failures import explain_failures, known_cause
from prsmed.errors import DataError


def wrapped(error: Exception) -> Exception:
    """As MONAI wraps what a component raises, twice."""
    try:
        try:
            raise error
        except Exception as inner:
            raise RuntimeError("Failed to instantiate component") from inner
    except RuntimeError as outer:
        return outer


def test_our_error_is_found_behind_others() -> None:
    ours = DataError("a.png: empty")
    assert known_cause(wrapped(ours)) is ours
    assert known_cause(ours) is ours
    assert known_cause(wrapped(ValueError("x"))) is None


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    explain_failures()


@pytest.mark.usefixtures("hook")
def test_our_error_is_one_line(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    error = wrapped(DataError("a.png: empty; export it again"))
    sys.excepthook(type(error), error, error.__traceback__)
    assert caplog.messages == ["a.png: empty; export it again"]
    assert caplog.records[0].levelno == logging.ERROR and "Traceback" not in capsys.readouterr().err


@pytest.mark.usefixtures("hook")
def test_another_error_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    error = wrapped(ZeroDivisionError("x"))
    sys.excepthook(type(error), error, error.__traceback__)
    assert "ZeroDivisionError: x" in capsys.readouterr().err
