"""The files the rules look at: everything git tracks, or would track at the next `git add --all`."""

import ast
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tracked_files(repository: Path) -> list[Path]:
    """Every file of the repository that is, or is about to be, committed."""
    command = ["git", "-C", str(repository), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    files = {repository / name for name in names if name}
    return sorted(file for file in files if file.is_file())


@pytest.fixture(scope="session")
def syntax_trees(repository: Path, tracked_files: list[Path]) -> dict[str, ast.Module]:
    """The syntax tree of every tracked Python file, by its path relative to the root."""
    return {
        file.relative_to(repository).as_posix(): ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
        for file in tracked_files
        if file.suffix == ".py"
    }
