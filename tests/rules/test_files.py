"""Committed files are small, carry no trace of the machine they were written on, and link to what exists."""

import re
from pathlib import Path

import pytest

MAX_LINES = 450
MAX_BYTES = 25 * 1024 * 1024
TEXT_SUFFIXES = {".py", ".json", ".toml", ".md", ".txt", ".yml", ".yaml", ".sh", ".cfg", ".conf", ".csv", ".svg", ""}

# A leading / of an absolute path: not part of a relative path, an address or a regular expression's group.
MACHINE_TRACES = re.compile(
    r"(?<![\w.~/:)*-])/(?:work|root|home|Users|tmp|mnt|opt)/[\w.-]+"
    r"|\b[A-Z]:\\\\?Users\b"
)
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)|(?:src|href)=\"([^\"]+)\"")


def dead_links(file: Path) -> list[str]:
    """Relative links of a Markdown file to files that do not exist; addresses and in-page anchors are left alone."""
    dead = []
    for match in _LINK.finditer(_FENCED.sub("", file.read_text(encoding="utf-8"))):
        target = (match[1] or match[2]).partition("#")[0]
        if target and not re.match(r"[a-z]+:", target) and not (file.parent / target).exists():
            dead.append(target)
    return dead


def test_files_stay_short(repository: Path, tracked_files: list[Path]) -> None:
    lengths = {
        file: len(file.read_text(encoding="utf-8").splitlines()) for file in tracked_files if file.suffix == ".py"
    }
    long = [f"{file.relative_to(repository)}: {lines} lines" for file, lines in lengths.items() if lines > MAX_LINES]
    assert not long, f"a file holds one noun, at most {MAX_LINES} lines: {long}"


def test_files_stay_small(repository: Path, tracked_files: list[Path]) -> None:
    large = [str(file.relative_to(repository)) for file in tracked_files if file.stat().st_size > MAX_BYTES]
    assert not large, f"above {MAX_BYTES} bytes, belongs into large_files.yml: {large}"


def test_no_trace_of_a_machine(repository: Path, tracked_files: list[Path]) -> None:
    found = [
        f"{file.relative_to(repository)}:{number}: {match[0]}"
        for file in tracked_files
        if file.suffix in TEXT_SUFFIXES
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        for match in MACHINE_TRACES.finditer(line)
    ]
    assert not found, "\n".join(found)


def test_links_lead_somewhere(repository: Path, tracked_files: list[Path]) -> None:
    documents = [file for file in tracked_files if file.suffix == ".md"]
    dead = [f"{file.relative_to(repository)}: {target}" for file in documents for target in dead_links(file)]
    assert not dead, "\n".join(dead)


@pytest.mark.parametrize("folder", ["work/data", "home/someone", "root/.cache", "tmp/w"])
def test_a_machine_path_is_found(folder: str) -> None:
    assert MACHINE_TRACES.search(f'open("/{folder}/a.png")')


@pytest.mark.parametrize("text", ["docs/work/a.md", "https://example.org/home/page", "either/or", "../shared/data"])
def test_a_harmless_text_passes(text: str) -> None:
    assert not MACHINE_TRACES.search(text)


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[here](page.md#top) [gone](gone.md) [web](https://example.org)\n```\n[code](no.md)\n```\n")
    assert dead_links(page) == ["gone.md"]
