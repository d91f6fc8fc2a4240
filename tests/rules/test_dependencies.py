"""pyproject.toml declares what is imported, and constraints.txt pins what pyproject.toml declares."""

import ast
import re
import sys
import tomllib
from pathlib import Path

from tests.rules.imports import imported_names

# Where the import's name is not the distribution's.
DISTRIBUTIONS = {
    "dicomweb_client": "dicomweb-client",
    "PIL": "pillow",
    "ignite": "pytorch-ignite",
    "jwt": "PyJWT",
    "requests_toolbelt": "requests-toolbelt",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
OWN = {"prsmed", "bundle", "scripts", "tests", "prsmed_ask"}
# Rooms that live in an environment of their own, and what that one brings.
LABEL_FILES = ("bundle/monailabel/", "scripts/label_server.py", "scripts/play_slicer.py", "scripts/attack_label.py")
LABEL_REQUIREMENTS = "bundle/monailabel/requirements.txt"
SLICER_FILES = "bundle/slicer/"
SLICER_LIBRARIES = {"slicer", "qt", "vtk"}


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\s<>=!~\[;]", requirement, maxsplit=1)[0].lower() for requirement in requirements}


def _project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_imports_are_declared(repository: Path, syntax_trees: dict[str, ast.Module]) -> None:
    project = _project(repository)
    extras = project["optional-dependencies"]
    every = _names(project["dependencies"]).union(*map(_names, extras.values()))
    shipped = every - _names(extras["test"])
    label = _names((repository / LABEL_REQUIREMENTS).read_text(encoding="utf-8").splitlines()) | {"monailabel"}
    undeclared = []
    for path, tree in syntax_trees.items():
        declared = shipped if path.startswith(("prsmed/", "bundle/")) else every
        if path.startswith(LABEL_FILES):
            declared = every | label
        elif path.startswith(SLICER_FILES):
            declared = SLICER_LIBRARIES
        for line, name in imported_names(path, tree):
            library = name.split(".")[0]
            known = library in sys.stdlib_module_names or library in OWN
            if not known and DISTRIBUTIONS.get(library, library).lower() not in declared:
                undeclared.append(f"{path}:{line}: {library}")
    assert not undeclared, "\n".join(undeclared)


def test_everything_declared_is_pinned(repository: Path) -> None:
    project = _project(repository)
    pins = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = _names([line for line in pins if "==" in line and not line.startswith("#")])
    declared = _names(project["dependencies"]).union(*map(_names, project["optional-dependencies"].values()))
    assert declared <= pinned, f"add to constraints.txt: {sorted(declared - pinned)}"
    assert not {"torchvision", "timm"} & pinned
