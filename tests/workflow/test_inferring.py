"""A file of questions answered by the bundle's command, and what MONAI asks of a bundle's workflows."""

import json
import logging
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow, verify_net_in_out
from monai.bundle import run as run_bundle
from PIL import Image

from prsmed.data.manifest import read_manifest
from tests.workflow.conftest import Trained

QUESTIONS = [
    "Is it lesion #2, yes?",
    "$__import__('os').system('false')",
    "@network_def",
    "%configs/train.json 50 %",
    "Где опухоль?",
]


def test_a_file_of_questions(trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cases = read_manifest(trained.dataset_dir).split("test")
    picture = next(case for case in cases if case.modality == "endoscopy")
    volume = next((trained.dataset_dir / "volumes").glob("mri_*[0-9].nii.gz"))
    good = [{"image": picture.image, "question": question, "modality": "endoscopy"} for question in QUESTIONS]
    sliced = {
        "image": f"volumes/{volume.name}",
        "question": "Where is the brain tumour?",
        "modality": "mri",
        "slice": {"axis": "axial", "index": 3},
    }
    bad = [
        {"image": "images/absent.png", "question": "Where?", "modality": "ct"},
        {"image": picture.image, "question": "Where?"},
        {"image": picture.image, "question": "", "modality": "endoscopy"},
        {"picture": picture.image},
        {"image": "../secret.png", "question": "Where?", "modality": "ct"},
        {**sliced, "slice": {"axis": "diagonal", "index": 3}},
        {**sliced, "slice": {"axis": "axial", "index": 4000}},
        "Where?",
    ]
    request = tmp_path / "request.json"
    whole = {name: value for name, value in sliced.items() if name != "slice"}
    request.write_text(json.dumps([*bad, *good, sliced, whole]))
    with caplog.at_level(logging.INFO, logger="bundle.handlers"):
        run_bundle(
            run_id="inferring",
            config_file="configs/inference.json",
            logging_file=False,
            model=trained.model,
            request=str(request),
            dataset_dir=str(trained.dataset_dir),
            output_dir=str(tmp_path / "out"),
            **{"volume::axis": "coronal", "volume::min_volume_mm3": 0, "volume::keep_largest": 1},
        )
    folders = sorted((tmp_path / "out").iterdir())
    assert [folder.name for folder in folders] == [f"{number:04d}" for number in range(9, 16)]
    answers = [json.loads((folder / "answer.json").read_text(encoding="utf-8")) for folder in folders]
    assert [answer["question"] for answer in answers] == [*QUESTIONS, *["Where is the brain tumour?"] * 2]
    assert answers[-2]["key_slice"] == {"axis": "axial", "index": 3} and answers[-2]["volume_statistics"] is None
    statistics = answers[-1]["volume_statistics"]
    assert statistics["slices"] > 1 and statistics["axis"] == answers[-1]["key_slice"]["axis"] == "coronal"
    assert (statistics["cleaning"]["min_volume_mm3"], statistics["cleaning"]["keep_largest"]) == (0, 1)
    assert len(statistics["findings"]) <= 1 and (folders[-1] / "mask.nii.gz").is_file()
    with Image.open(folders[0] / "mask.png") as mask, Image.open(trained.dataset_dir / picture.image) as image:
        assert mask.size == image.size
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [error.partition(":")[0] for error in errors] == [f"request {number:04d}" for number in range(1, 9)]


CONFIGS = {"train": "train", "evaluate": "infer", "inference": "infer"}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_workflow_has_the_properties_monai_asks_for(name: str, trained: Trained, tmp_path: Path) -> None:
    """For real: everything is built."""
    request = tmp_path / "request.jsonl"
    request.write_text(json.dumps({"image": "a.png", "question": "Where?", "modality": "ct"}))
    settings = {"dataset_dir": str(trained.dataset_dir), "tracking_uri": f"sqlite:///{tmp_path / 'store.db'}"}
    settings |= {"runs_dir": str(tmp_path)} if name == "train" else {"model": trained.model}
    settings |= {"output_dir": str(tmp_path / "out")} if name == "evaluate" else {}
    settings |= {"request": str(request)} if name == "inference" else {}
    workflow = ConfigWorkflow(
        f"configs/{name}.json", workflow_type=CONFIGS[name], logging_file=False, device="cpu", **settings
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.finalize()


def test_the_network_fits_the_metadata(trained: Trained) -> None:
    verify_net_in_out(
        "network_def",
        meta_file="configs/metadata.json",
        config_file="configs/inference.json",
        device="cpu",
        model=trained.model,
    )
