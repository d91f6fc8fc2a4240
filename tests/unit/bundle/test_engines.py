"""What MONAI's engines call: batches to devices, one pass, questions, requests."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from bundle.data import AskDataset, build_loader
from bundle.distributed import local_device
from bundle.engines import (
    AnswerInferer,
    AskInferer,
    ImageToMask,
    PassInferer,
    bare,
    build_trainable,
    keep_batch,
    prepare_batch,
)
from prsmed.data.manifest import Manifest
from prsmed.data.preprocessing import Preprocessing
from prsmed.errors import CheckpointError, DataError, PrsmedError, RequestError
from prsmed.models.checkpoints import model_folder
from prsmed.models.presets import build_text
from prsmed.predictor import Predictor
from prsmed.samples import items_of
from prsmed.text.templates import TemplateBank
from tests.unit.data.readers.made_dicom import SERIES_UID, save, slice_of
from tests.unit.small_networks import small_network, small_text

TEXT = small_text()
NETWORK = small_network(len(TEXT.tokenizer))


@pytest.fixture(scope="module")
def batch(phantom_manifest: Manifest, preprocessing: Preprocessing) -> dict:
    slices = {"axis": "axial", "with_target": 1, "without_target": 0}
    dataset = AskDataset(
        items_of(phantom_manifest, "val", slices=slices)[:3],
        manifest=phantom_manifest,
        preprocessing=preprocessing,
        text=TEXT,
        bank=TemplateBank.load(),
        zone_rule="posmed",
        split="val",
        answers=True,
    )
    return next(iter(build_loader(dataset, batch_size=3, pad_id=TEXT.pad_id, shuffle=False)))


@pytest.fixture
def predictor(preprocessing: Preprocessing) -> Predictor:
    info = {
        "preset": "miniature",
        "weights": {"sha256": "0"},
        "thresholds": {"mask": 0.5, "presence": 0.0},
        "zone_rule": "posmed",
        "targets": {"polyp": "lesion"},
    }
    return Predictor(NETWORK, TEXT, preprocessing, info)


def test_a_batch_is_both_input_and_label(batch: dict) -> None:
    inputs, labels = prepare_batch(batch, "cpu", False)
    assert inputs is labels and inputs["question"] == batch["question"]
    moved, _ = prepare_batch(batch, "meta", False)
    assert moved["image"].is_meta and moved["geometry"] == batch["geometry"]
    assert keep_batch("request", "cpu") == ("request", None)


def test_training_and_asking_see_the_same_network(batch: dict) -> None:
    NETWORK.eval()
    with torch.no_grad():
        trained = PassInferer()(batch, NETWORK)
    asked = AskInferer(TEXT)(batch, NETWORK)
    assert trained.mask_logits.shape == batch["label"].shape
    assert len(trained.text_logits) == int((batch["target_ids"] >= 0).sum())
    assert torch.allclose(trained.mask_logits.sigmoid(), asked.mask_prob, atol=1e-5)  # the answer does not leak
    assert len(asked.texts) == 3 and asked.presence_prob.shape == (3,)


def test_the_seed_decides_the_first_weights() -> None:
    text = build_text("prs_med", "tiny")

    def weights(seed: int) -> list[torch.Tensor]:
        return list(build_trainable("prs_med", "tiny", text=text, device="cpu", seed=seed).parameters())

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_training_goes_on_from_a_model_and_from_no_other() -> None:
    text = build_text("prs_med", "tiny")
    arguments = {"text": text, "device": "cpu", "seed": 1}
    started = build_trainable("prs_med", "tiny", start_from="tiny", **arguments).state_dict()
    trained = load_file(model_folder("tiny") / "model.safetensors")
    assert all(torch.equal(started[name], tensor.float()) for name, tensor in trained.items())
    with pytest.raises(CheckpointError, match="does not fit this network"):
        build_trainable("medisee", "tiny", start_from="tiny", **arguments)
    with pytest.raises(CheckpointError, match="no model 'nobody'"):
        build_trainable("prs_med", "tiny", start_from="nobody", **arguments)


def test_an_unwrapped_network_is_bare() -> None:
    assert bare(NETWORK) is NETWORK
    assert torch.cuda.is_available() or local_device() == torch.device("cpu")


def test_image_to_mask_needs_no_question(predictor: Predictor) -> None:
    network = ImageToMask(predictor)
    image = torch.rand(2, 3, 48, 64)
    mask_prob = network(image)
    assert mask_prob.shape == (2, 1, 48, 64) and mask_prob.min() >= 0 and mask_prob.max() <= 1
    assert not torch.equal(mask_prob, network(image, question="Which polyp?"))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"image": "absent.png"}, DataError),
        ({"modality": None}, RequestError),
        ({"modality": "pet"}, RequestError),
        ({"question": " "}, RequestError),
        ({"question": None}, RequestError),
        ({"image": "study"}, DataError),
        ({"image": "study", "series": "1.2.3"}, DataError),
        ({"image": "study", "series": SERIES_UID, "modality": None}, None),
        ({"slice": {"axis": "oblique", "index": 0}}, RequestError),
        ({}, None),
    ],
)
def test_a_request_gives_an_answer_or_its_error(
    changes: dict, kind: type[PrsmedError] | None, predictor: Predictor, tmp_path: Path
) -> None:
    Image.fromarray(np.full((20, 30), 90, dtype=np.uint8)).save(tmp_path / "a.png")
    slices = [slice_of(index) for index in range(2)] + [slice_of(0, SeriesInstanceUID="1.2.9")]
    save(tmp_path / "study", *slices)
    request = {"image": "a.png", "question": "Where is the polyp #1?", "modality": "endoscopy", **changes}
    given = AnswerInferer()({"request": request, "image_dir": tmp_path}, ImageToMask(predictor))
    if kind:
        assert type(given) is kind
    else:
        session, answer = given
        assert answer.question == "Where is the polyp #1?"
        shown = session.source.array.shape if session.source.is_volume else session.picture.shape
        assert shown == ((5, 4, 2) if request["image"] == "study" else (20, 30, 3))
