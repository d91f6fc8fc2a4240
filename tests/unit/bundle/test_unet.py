"""The U-Net baseline: a channel for each target, answers that do not depend on the batch, its model folder."""

import json
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from bundle.data import AskDataset, build_loader
from bundle.runs import model_info
from bundle.unet import (
    TargetUNet,
    UNetInferer,
    UNetPassInferer,
    UNetPredictor,
    answer_batch,
    build_unet,
    unet_info,
)
from prsmed.data.manifest import Manifest
from prsmed.data.preprocessing import Preprocessing
from prsmed.errors import CheckpointError, RequestError
from prsmed.losses import PRSMedLoss
from prsmed.models.checkpoints import model_folder, save_model
from prsmed.models.presets import build_text, tokenizer_file
from prsmed.samples import items_of
from prsmed.text.templates import TemplateBank

POLYP, TUMOUR, LUNGS = ("endoscopy", "polyp"), ("mri", "brain tumour"), ("x-ray", "lungs")
UNKNOWN = ("ultrasound", "polyp")
SMALL = {"widths": [4, 8, 8], "frame_px": 32}


def small_unet(seed: int = 0) -> TargetUNet:
    torch.manual_seed(seed)
    return TargetUNet([POLYP, TUMOUR, LUNGS], **SMALL).eval()


@pytest.fixture(scope="module")
def batch(phantom_manifest: Manifest, preprocessing: Preprocessing) -> dict:
    text = build_text("prs_med", "tiny")
    dataset = AskDataset(
        items_of(phantom_manifest, "val", slices={"axis": "axial", "with_target": 1, "without_target": 0})[:4],
        manifest=phantom_manifest,
        preprocessing=preprocessing,
        text=text,
        bank=TemplateBank.load(),
        zone_rule="posmed",
        split="val",
        answers=False,
    )
    return next(iter(build_loader(dataset, batch_size=4, pad_id=text.pad_id, shuffle=False)))


def test_the_asked_target_decides_the_channel() -> None:
    network, image = small_unet(), torch.rand(2, 3, 32, 32)
    channels_BCHW = network.unet(image)
    with torch.no_grad():
        logits = network(image, [LUNGS, POLYP, TUMOUR], obj_image=torch.tensor([1, 0, 0]))
    expected = [channels_BCHW[1, 2], channels_BCHW[0, 0], channels_BCHW[0, 1]]
    assert logits.shape == (3, 1, 32, 32)
    assert torch.equal(logits[:, 0], torch.stack(expected))


def test_only_the_asked_channel_learns() -> None:
    network = small_unet()
    network(torch.rand(1, 3, 32, 32), [TUMOUR], obj_image=torch.tensor([0])).sum().backward()
    last_bias = [parameter for parameter in network.parameters() if parameter.shape == (3,)][-1].grad
    assert last_bias[1] != 0 and last_bias[0] == last_bias[2] == 0


@pytest.mark.parametrize("hw_px", [(32, 32), (30, 17), (33, 64)])
def test_any_size_is_padded_and_cut_again(hw_px: tuple[int, int]) -> None:
    logits = small_unet()(torch.rand(1, 3, *hw_px), [POLYP], obj_image=torch.tensor([0]))
    assert logits.shape == (1, 1, *hw_px)


def test_an_answer_does_not_depend_on_the_other_images_sizes() -> None:
    """A narrow image alone, and beside a wide one that makes the batch wider."""
    network, narrow = small_unet(), torch.rand(1, 3, 32, 20)
    beside = torch.zeros(2, 3, 32, 32)
    beside[0, :, :, :20] = narrow
    with torch.no_grad():
        alone = network(narrow, [POLYP], obj_image=torch.tensor([0]))
        among = network(beside, [POLYP, POLYP], obj_image=torch.tensor([0, 1]))
    assert torch.allclose(alone, among[:1, :, :, :20], atol=1e-6)


def test_a_frame_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(RequestError, match="frame_px 30: must be a multiple of 4"):
        TargetUNet([POLYP], widths=[4, 8, 8], frame_px=30)


def test_an_unknown_target_is_absent(batch: dict) -> None:
    asked = {**batch, "modality": ["mri", "ultrasound", "endoscopy", "x-ray"], "target": ["lungs", *["polyp"] * 3]}
    answers = answer_batch(small_unet(), asked)
    assert [prob > 0 for prob in answers.presence_prob.tolist()] == [False, False, True, False]
    assert answers.mask_prob[[0, 1, 3]].abs().max() == 0
    assert answers.texts is None


def test_padding_is_never_present(batch: dict) -> None:
    """A network that is surest in the padding: presence is looked up in the picture."""
    valid = batch["valid"].clone()
    valid[:, :, :, 40:] = 0
    logits = torch.where(valid > 0, -1.0, 9.0)
    answers = UNetInferer()({**batch, "valid": valid}, lambda *_, **__: logits)
    assert torch.allclose(answers.presence_prob, torch.tensor(-1.0).sigmoid().expand(4))


def test_training_and_asking_see_the_same_masks(batch: dict) -> None:
    asked = {**batch, "modality": ["endoscopy"] * 4, "target": ["polyp"] * 4}
    network = small_unet()
    with torch.no_grad():
        trained = UNetPassInferer()(asked, network)
    answered = UNetInferer()(asked, network)
    assert torch.equal(trained.mask_logits.sigmoid() * batch["valid"], answered.mask_prob)
    assert torch.equal(answered.presence_prob, answered.mask_prob.flatten(1).amax(dim=1))
    assert torch.isfinite(PRSMedLoss({"bce": 1, "dice": 1})(trained, asked))


def test_labels_of_windows_are_refused(batch: dict) -> None:
    asked = {**batch, "modality": ["endoscopy"] * 4, "target": ["polyp"] * 4, "windows_xyxy_norm": torch.rand(4, 4)}
    with pytest.raises(RequestError, match="set windows to null"):
        UNetPassInferer()(asked, small_unet())


def test_the_training_split_decides_the_channels(phantom_manifest: Manifest) -> None:
    network = build_unet(phantom_manifest, **SMALL, device="cpu", seed=1)
    train = phantom_manifest.split("train")
    assert set(network.channel_of) == {(case.modality, target.name) for case in train for target in case.targets}
    assert sorted(network.channel_of.values()) == list(range(len(network.channel_of)))
    again = build_unet(phantom_manifest, **SMALL, device="cpu", seed=1)
    pairs = zip(network.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_several_processes_are_refused(phantom_manifest: Manifest) -> None:
    with patch("bundle.unet.idist.get_world_size", return_value=2), pytest.raises(RequestError, match="one process"):
        build_unet(phantom_manifest, **SMALL, device="cpu", seed=1)


def test_a_stored_model_answers_as_before(
    phantom_manifest: Manifest, train_config: dict, batch: dict, tmp_path: Path
) -> None:
    network = build_unet(phantom_manifest, **SMALL, device="cpu", seed=1)
    for _ in range(3):
        network(batch["image"], [POLYP] * 4, obj_image=batch["obj_image"])  # batch norm's statistics move
    info = model_info(
        phantom_manifest,
        task="unet",
        preset="unet",
        name="net",
        preprocessing=train_config["preprocessing_steps"],
        zone_rule="posmed",
        thresholds={"mask": 0.5, "presence": 0.4},
    )
    save_model(tmp_path, network, unet_info(info, network), tokenizer_file=tokenizer_file("prs_med", "tiny"))
    loaded = UNetPredictor.load(tmp_path)
    before, after = answer_batch(network.eval(), batch), answer_batch(loaded.network, batch)
    assert torch.equal(before.mask_prob, after.mask_prob) and torch.equal(before.presence_prob, after.presence_prob)
    assert (before.presence_prob > 0).all()
    assert (loaded.thresholds["presence"], loaded.zone_rule) == (0.4, "posmed")
    assert len(loaded.preprocessing.steps) == len(train_config["preprocessing_steps"])
    record = loaded.model_record()
    stored = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    assert (record["name"], record["weights_sha256"]) == ("net", stored["weights"]["sha256"])


def test_another_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match="is a model for prs_med, not a U-Net"):
        UNetPredictor.load(model_folder("tiny"))
