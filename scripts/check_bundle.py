"""Check the bundle against MONAI's specification without a network: `python scripts/check_bundle.py`.

MONAI's own `verify_metadata` downloads its schema, so the rules of `meta_schema_20240725.json` that concern this bundle
are written down here. The properties of the workflows are checked by MONAI's own code.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
from monai.bundle import ConfigWorkflow

import prsmed

REPOSITORY = Path(__file__).resolve().parents[1]
WORKFLOWS = {"train": "train", "evaluate": "infer", "inference": "infer"}
PINNED = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}

_TENSOR_KEYS = ("type", "format", "num_channels", "spatial_shape", "dtype", "value_range")
_VALUE = {"anyOf": [{"type": ["number", "string", "boolean"]}, {"type": "object", "required": list(_TENSOR_KEYS)}]}
_VALUES = {"type": "object", "additionalProperties": _VALUE, "minProperties": 1}
_TEXT_KEYS = ("schema", "version", *PINNED, "task", "description", "authors", "copyright")
METADATA_SCHEMA = {
    "type": "object",
    "required": [*_TEXT_KEYS, "changelog", "required_packages_version", "network_data_format"],
    "properties": {
        **{key: {"type": "string"} for key in _TEXT_KEYS},
        "changelog": {"type": "object"},
        "required_packages_version": {"type": "object", "additionalProperties": {"type": "string"}},
        "supported_apps": {"type": "object"},
        "eval_metrics": {"type": "object"},
        "references": {"type": "array", "items": {"type": "string"}},
    },
    "patternProperties": {
        "_data_format$": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {"inputs": _VALUES, "outputs": _VALUES},
        }
    },
}


class PropertyOutline(ConfigWorkflow):
    """A workflow whose properties are looked up in the config, not built, so that checking them costs nothing."""

    def _get_property(self, name: str, property: dict) -> Any:
        if property["id"] not in self.parser:
            raise AttributeError(f"{name} has no config id {property['id']}")
        return property["id"]


def metadata_problems(metadata: dict[str, Any], pins: dict[str, str]) -> list[str]:
    """What is wrong with a bundle's metadata; `pins` maps the tested packages to their versions."""
    errors = jsonschema.Draft202012Validator(METADATA_SCHEMA).iter_errors(metadata)
    problems = [f"{'/'.join(map(str, error.absolute_path)) or 'metadata'}: {error.message}" for error in errors]
    if problems:
        return problems
    if metadata["version"] != prsmed.__version__:
        problems.append(f"version is {metadata['version']}, the package's is {prsmed.__version__}")
    if metadata["version"] not in metadata["changelog"]:
        problems.append(f"changelog has no entry for version {metadata['version']}")
    stated = {PINNED[key]: metadata[key] for key in PINNED} | metadata["required_packages_version"]
    for package, version in stated.items():
        if pins.get(package.lower()) != version:
            problems.append(f"{package} is {version}, constraints.txt has {pins.get(package.lower())}")
    for side in ("inputs", "outputs"):
        name, first = next(iter(metadata["network_data_format"][side].items()))
        if not isinstance(first, dict):
            problems.append(f"{side}: {name} comes first; tools take the first for the image (or the mask)")
    return problems


def workflow_problems(configs: Path) -> list[str]:
    """Properties MONAI requires of the train, evaluate and inference workflows and does not find."""
    problems = []
    for name, workflow_type in WORKFLOWS.items():
        workflow = PropertyOutline(str(configs / f"{name}.json"), logging_file=False, workflow_type=workflow_type)
        problems += [f"{name}.json: property {missing} is missing" for missing in workflow.check_properties() or []]
    return problems


def main() -> int:
    """Print every problem; the exit code is 1 where there is one."""
    configs = REPOSITORY / "configs"
    absent = [name for name in ("metadata", *WORKFLOWS) if not (configs / f"{name}.json").is_file()]
    if absent:
        print(f"configs/ lacks {', '.join(f'{name}.json' for name in absent)}")
        return 1
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {name.lower(): version for name, _, version in (line.partition("==") for line in lines)}
    problems = metadata_problems(json.loads((configs / "metadata.json").read_text(encoding="utf-8")), pins)
    problems += workflow_problems(configs)
    print("\n".join(problems) or "metadata.json and the workflows' properties are as the specification asks")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
