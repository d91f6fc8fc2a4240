"""David Clunie's DICOM validator (Debian: dicom3tools), where it is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest


def errors_of(path: Path) -> list[str]:
    """The errors that dciodvfy finds; skips the test where the program is absent."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed; Debian has it in dicom3tools")
    run = subprocess.run([program, path], capture_output=True, text=True, timeout=60, check=False)
    return [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("Error")]
