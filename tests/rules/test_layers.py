"""Imports point down only, and each outside library has its home."""

import ast
from collections.abc import Sequence

import pytest

from tests.rules.imports import imported_names, is_within, module_name

# From the floor up. Rooms on one floor do not know each other.
FLOORS = (
    ("prsmed.errors",),
    ("prsmed.types",),
    ("prsmed.geometry",),
    ("prsmed.windows",),
    ("prsmed.data", "prsmed.text"),
    ("prsmed.models",),
    ("prsmed.samples", "prsmed.losses", "prsmed.metrics", "prsmed.volumes", "prsmed.loaded", "prsmed.scenes"),
    ("prsmed.probes", "prsmed.answers", "prsmed.query_samples"),
    ("prsmed.sessions", "prsmed.report"),
    ("prsmed.predictor",),
    ("prsmed.batch",),
    ("bundle",),
    ("prsmed.cli", "scripts"),
)

_FILE_FORMATS = ("prsmed.data.readers", "prsmed.data.writers")
_TRAINING = ("bundle", "prsmed.cli", "scripts")
HOMES = {
    "nibabel": _FILE_FORMATS,
    "nibabel.orientations": ("prsmed.data", "prsmed.geometry"),  # arithmetic on axis codes: it opens no file
    "SimpleITK": (*_FILE_FORMATS, "prsmed.data.bias_field"),  # N4 is arithmetic on an array: it opens no file
    "itk": _FILE_FORMATS,
    "pydicom": _FILE_FORMATS,
    "highdicom": _FILE_FORMATS,
    "PIL.Image.open": _FILE_FORMATS,  # drawing with PIL is free
    "peft": ("prsmed.models.lora",),
    "ignite": _TRAINING,
    "mlflow": _TRAINING,
    "monai.bundle": _TRAINING,
    "monai.engines": _TRAINING,
    "monai.handlers": _TRAINING,
    "matplotlib": ("prsmed.report",),
    "jinja2": ("prsmed.report",),
    "monailabel": ("bundle.monailabel", "scripts.play_slicer"),
    "slicer": ("bundle.slicer",),
    "qt": ("bundle.slicer",),
    "torchvision": (),
    "timm": (),
}


def floor_and_room(name: str) -> tuple[int, str] | None:
    """Where a dotted name lives; None for everything that is not this project's."""
    for floor, rooms in enumerate(FLOORS):
        for room in rooms:
            if is_within(name, (room,)):
                return floor, room
    return None


def upward_imports(path: str, tree: ast.Module) -> list[str]:
    """One line for each import that points up or sideways."""
    place = floor_and_room(module_name(path))
    if place is None:
        return []
    floor, room = place
    wrong = []
    for line, name in imported_names(path, tree):
        target = floor_and_room(name)
        if target and target[1] != room and target[0] >= floor:
            wrong.append(f"{path}:{line}: {room} imports {name}; imports point down only")
    return wrong


def homeless_libraries(path: str, tree: ast.Module) -> list[str]:
    """One line for each use of a library outside its home."""
    module = module_name(path)
    used = [*imported_names(path, tree), *_image_open_calls(tree)]
    wrong = []
    for line, name in used:
        homes = [HOMES[library] for library in sorted(HOMES, key=len, reverse=True) if is_within(name, (library,))]
        if homes and not is_within(module, homes[0]):
            wrong.append(f"{path}:{line}: {name} belongs into {homes[0] or 'no module'}")
    return wrong


def _image_open_calls(tree: ast.Module) -> list[tuple[int, str]]:
    return [
        (node.lineno, "PIL.Image.open")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "open" and ast.unparse(node.value).split(".")[-1] == "Image"
    ]


def _own(syntax_trees: dict[str, ast.Module], roots: Sequence[str]) -> list[tuple[str, ast.Module]]:
    return [(path, tree) for path, tree in syntax_trees.items() if path.startswith(tuple(f"{root}/" for root in roots))]


def test_imports_point_down(syntax_trees: dict[str, ast.Module]) -> None:
    wrong = [
        line
        for path, tree in _own(syntax_trees, ("prsmed", "bundle", "scripts"))
        for line in upward_imports(path, tree)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_module_has_a_floor(syntax_trees: dict[str, ast.Module]) -> None:
    modules = [module_name(path) for path, _ in _own(syntax_trees, ("prsmed",))]
    lost = [module for module in modules if module != "prsmed" and floor_and_room(module) is None]
    assert not lost, f"{lost}: name their floor in FLOORS and in docs/architecture.md"


def test_libraries_stay_at_home(syntax_trees: dict[str, ast.Module]) -> None:
    own = _own(syntax_trees, ("prsmed", "bundle", "scripts"))
    wrong = [line for path, tree in own for line in homeless_libraries(path, tree)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("prsmed/data/manifest.py", "from prsmed.text.positions import describe"),
        ("prsmed/data/manifest.py", "from .. import samples"),
        ("prsmed/models/fusion.py", "def f():\n    import prsmed.losses"),
        ("prsmed/predictor.py", "from bundle import engines"),
    ],
)
def test_an_upward_import_is_found(path: str, source: str) -> None:
    assert len(upward_imports(path, ast.parse(source))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("prsmed/geometry.py", "import nibabel"),
        ("prsmed/text/parse.py", "import nibabel.orientations"),
        ("bundle/transforms.py", "from PIL import Image\nImage.open('a.png')"),
        ("prsmed/metrics/scores.py", "from monai.handlers import MeanDice"),
        ("prsmed/data/readers/picture.py", "import torchvision.io"),
    ],
)
def test_a_library_outside_its_home_is_found(path: str, source: str) -> None:
    assert len(homeless_libraries(path, ast.parse(source))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("prsmed/data/readers/nifti.py", "import nibabel"),
        ("prsmed/data/writers/nifti.py", "import nibabel as nib"),
        ("prsmed/geometry.py", "import nibabel.orientations as orientations"),
        ("prsmed/predictor.py", "from PIL import Image, ImageDraw\nImage.new('L', (2, 2))"),
        ("bundle/engines.py", "from monai.engines import SupervisedTrainer"),
        ("bundle/transforms.py", "from prsmed import samples\nfrom prsmed.data.readers import open_image"),
    ],
)
def test_what_is_allowed_passes(path: str, source: str) -> None:
    tree = ast.parse(source)
    assert not upward_imports(path, tree)
    assert not homeless_libraries(path, tree)
