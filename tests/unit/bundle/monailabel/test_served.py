"""Which weights answer, what a client is told, and the training set made from corrected labels."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bundle.engines import build_trainable
from bundle.monailabel.asked import AskRequest, TrainRequest
from bundle.monailabel.finetune import Labelled, training_overrides, write_training_set
from bundle.monailabel.served import Served, shown_params
from prsmed.data.manifest import read_manifest
from prsmed.data.writers.nifti import write_nifti
from prsmed.errors import CheckpointError, DataError, RequestError
from prsmed.models.checkpoints import load_weights, model_folder, read_info

AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return Served(tmp_path_factory.mktemp("home"), "tiny")


@pytest.fixture
def air(tmp_path: Path) -> Path:
    """A CT of air only, in which there is nothing to find."""
    path = tmp_path / "air.nii.gz"
    write_nifti(path, np.full((32, 40, 3), -1000, np.int16), AFFINE)
    return path


def candidate(served: Served, name: str, *, change: bool) -> Path:
    """The served weights as a candidate; with `change`, with a byte that nobody stated."""
    best = served.home / "runs" / name / "best"
    shutil.copytree(model_folder("tiny"), best)
    if change:
        weights = best / read_info(best)["weights"]["file"]
        weights.chmod(0o644)
        weights.write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    return best


def test_nothing_visible_is_an_empty_label_with_its_sentence(served: Served, air: Path) -> None:
    session, answer = served.ask(air, AskRequest("Where is the lung nodule?", modality="ct"))
    told = shown_params(answer)
    assert told["label_names"] == {} and told["present"] is False and told["findings"] == []
    assert "nothing is marked" in told["answer"]
    assert session.source.array.shape == (32, 40, 3)
    json.dumps(told)


def test_a_slice_is_told_by_the_same_record(served: Served, air: Path) -> None:
    _, answer = served.ask(air, AskRequest("Where is the lung nodule?", modality="ct", slice_index=1))
    told = shown_params(answer)
    assert told["key_slice"] == {"axis": "axial", "index": 1}
    assert told["answer"] == told["text"] and told["volume_statistics"] is None


def test_a_file_that_promises_too_much_is_not_opened(served: Served, tmp_path: Path) -> None:
    image = tmp_path / "a.nrrd"
    image.write_bytes(b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4000 4000 4000\nencoding: raw\n\n")
    with pytest.raises(DataError, match="promises 64000000000 voxels"):
        served.ask(image, AskRequest("Where?", modality="ct"))


def test_a_candidate_answers_only_after_it_was_accepted(served: Served) -> None:
    candidate(served, "run1", change=False)
    assert [(one["run"], one["serving"]) for one in served.candidates()] == [("run1", False)]
    served.accept("run1", who="reader")
    assert served.candidates()[0]["serving"] and served.folder().parent.name == "run1"
    assert Served(served.home, "tiny").folder() == served.folder()
    served.accept("initial")
    assert served.folder() == model_folder("tiny")


def test_a_pickle_in_the_place_of_weights_is_refused(served: Served) -> None:
    candidate(served, "run2", change=True)
    before = served.predictor
    with pytest.raises(RequestError, match="cannot be served"):
        served.accept("run2")
    assert served.predictor is before
    with pytest.raises(RequestError):
        served.accept("../../elsewhere")


def test_accepted_weights_that_were_changed_stop_the_start(tmp_path: Path) -> None:
    served = Served(tmp_path, "tiny")
    best = candidate(served, "run3", change=False)
    served.accept("run3")
    record = json.loads((tmp_path / "accepted.json").read_text())
    (tmp_path / "accepted.json").write_text(json.dumps({**record, "weights_sha256": "0" * 64}))
    with pytest.raises(CheckpointError, match="not what was accepted"):
        Served(tmp_path, "tiny")
    assert best.is_dir()


def test_corrected_labels_become_cases(served: Served, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    labelled = []
    for number in range(5):
        image, mask = studies / f"a{number}.nii.gz", studies / f"mask{number}.nii.gz"
        write_nifti(image, np.zeros((8, 8, 2), np.int16), AFFINE)
        write_nifti(mask, np.zeros((8, 8, 2), np.uint8), AFFINE)
        question = {3: None, 4: "Where is the lung nodule in the left lung?"}.get(number, "Where is the lung nodule?")
        info = {"question": question, "answer": "Not there.", "modality": "ct"}
        labelled.append(Labelled(f"a{number}", image, mask, info))
    name_target = served.predictor.name_target
    counts = write_training_set(tmp_path / "set", labelled, studies=studies, val_split=0.3, name_target=name_target)
    assert counts == {"train": 2, "val": 1, "left_out": 2}
    manifest = read_manifest(tmp_path / "set")
    assert {case.targets[0].name for case in manifest.cases} == {"lung nodule"}
    assert manifest.resolve(manifest.cases[0], manifest.cases[0].image).is_file()
    query = manifest.cases[0].queries[0]
    assert (query.question, query.answer, query.made_by) == ("Where is the lung nodule?", "Not there.", "annotator")
    with pytest.raises(RequestError, match="two labelled images"):
        write_training_set(tmp_path / "b", labelled[:1], studies=studies, val_split=0.3, name_target=name_target)


def test_training_goes_on_from_the_served_weights(served: Served, tmp_path: Path) -> None:
    asked = TrainRequest(max_epochs=2)
    overrides = training_overrides(served.folder(), dataset=tmp_path, runs=tmp_path, name="r", asked=asked)
    assert overrides["preprocessing_steps"] == served.predictor.info["preprocessing"]
    network = build_trainable(
        overrides["task"],
        overrides["preset"],
        text=served.predictor.text,
        device="cpu",
        seed=0,
        start_from=overrides["start_from"],
    )
    load_weights(served.folder(), served.predictor.network)
    for name, tensor in served.predictor.network.state_dict().items():
        assert (network.state_dict()[name] == tensor).all(), name
