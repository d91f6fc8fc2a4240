"""The classical baseline of the evaluation: MONAI's U-Net, told which target is asked. It segments and says nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
import torch.nn.functional as F
from monai.inferers import Inferer
from monai.networks.nets import UNet
from torch import nn

from prsmed.answers import RawAnswers
from prsmed.data.manifest import Manifest
from prsmed.data.preprocessing import Preprocessing
from prsmed.errors import CheckpointError, RequestError
from prsmed.models.allocation import keep_freed_memory
from prsmed.models.checkpoints import load_weights, model_folder, read_info
from prsmed.models.prs_med import PRSMedOutput

TASK = "unet"


class TargetUNet(nn.Module):
    """MONAI's 2D U-Net with one output channel for each (modality, target) it was trained on; the asked one is given.

    Args:
        asks: the (modality, target) pairs, in the order of the output channels.
        widths: channels of its levels; each level has half the resolution of the one before.
        frame_px: images are padded to a multiple of this at the bottom and right. With the long side of the canonical
            images it makes an answer independent of the sizes of the other images in the batch.

    Raises:
        RequestError: `frame_px` cannot be halved that often.
    """

    def __init__(self, asks: Sequence[Sequence[str]], *, widths: Sequence[int], frame_px: int):
        super().__init__()
        halvings = len(widths) - 1
        if frame_px % 2**halvings:
            raise RequestError(f"frame_px {frame_px}: must be a multiple of {2**halvings} for {len(widths)} widths")
        self.settings = {"asks": [list(pair) for pair in asks], "widths": list(widths), "frame_px": frame_px}
        self.channel_of = {(modality, target): channel for channel, (modality, target) in enumerate(asks)}
        self.frame_px = frame_px
        # Batch norm: instance norm would count the padding as picture.
        self.unet = UNet(2, 3, len(asks), channels=widths, strides=[2] * halvings, num_res_units=2, norm="BATCH")

    def forward(
        self, image_BCHW: torch.Tensor, asked: Sequence[tuple[str, str]], *, obj_image: torch.Tensor
    ) -> torch.Tensor:
        """Mask logits float32 (K, 1, H, W) of K asked (modality, target) pairs; minus infinity for an unknown one.

        Args:
            image_BCHW: float32 in [0, 1].
            asked: what to segment.
            obj_image: (K,) in which image.
        """
        height, width = image_BCHW.shape[-2:]
        image_BCHW = F.pad(image_BCHW, (0, -width % self.frame_px, 0, -height % self.frame_px))
        logits_BCHW = self.unet(image_BCHW)[..., :height, :width].float()
        nothing_B1HW = torch.full_like(logits_BCHW[:, :1], -torch.inf)
        unknown = len(self.channel_of)
        channel_K = torch.tensor([self.channel_of.get(pair, unknown) for pair in asked], device=obj_image.device)
        return torch.cat([logits_BCHW, nothing_B1HW], dim=1)[obj_image, channel_K][:, None]


def build_unet(manifest: Manifest, *, widths: Sequence[int], frame_px: int, device: Any, seed: int) -> TargetUNet:
    """An untrained network for everything that the training split asks.

    Raises:
        RequestError: started with several processes, which would each train a network of their own.
    """
    if idist.get_world_size() > 1:
        raise RequestError("the U-Net trains in one process; start it without torchrun")
    keep_freed_memory()
    torch.manual_seed(seed)
    seen = {(case.modality, target.name) for case in manifest.split("train") for target in case.targets}
    asks = sorted((modality, name) for modality, name in seen if modality)
    return TargetUNet(asks, widths=widths, frame_px=frame_px).to(device)


def unet_info(info: Mapping[str, Any], network: TargetUNet) -> dict[str, Any]:
    """The model's description, with what the network is built from again."""
    return {**info, "network": network.settings}


def asked_mask_logits(network: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
    """(K, 1, H, W) float32 for a batch of `prsmed.samples.collate`; bf16 inside on CUDA."""
    image = batch["image"]
    asked = list(zip(batch["modality"], batch["target"], strict=True))
    with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=image.is_cuda):
        return network(image, asked, obj_image=batch["obj_image"])


@torch.no_grad()
def answer_batch(network: nn.Module, batch: Mapping[str, Any]) -> RawAnswers:
    """Masks of a batch, without words. A target is as present as the surest pixel of its mask."""
    started = time.perf_counter()
    mask_prob = asked_mask_logits(network, batch).sigmoid() * batch["valid"]
    presence_prob = mask_prob.flatten(1).amax(dim=1)
    return RawAnswers(mask_prob, presence_prob, None, {"mask": time.perf_counter() - started})


class UNetPassInferer(Inferer):
    """One forward pass for training, as the record that `PRSMedLoss` reads.

    Raises:
        RequestError: labels show windows of the pictures, which only PRS-Med can cut from its maps.
    """

    def __call__(self, inputs: Mapping[str, Any], network: nn.Module, *_: Any, **__: Any) -> PRSMedOutput:
        if inputs.get("windows_xyxy_norm") is not None:
            raise RequestError("a U-Net looks at whole pictures; set windows to null")
        mask_logits = asked_mask_logits(network, inputs)
        return PRSMedOutput(mask_logits=mask_logits, presence_logit=mask_logits.flatten(1).amax(dim=1))


class UNetInferer(Inferer):
    """Masks for an evaluator; the questions' words are not read."""

    def __call__(self, inputs: Mapping[str, Any], network: nn.Module, *_: Any, **__: Any) -> RawAnswers:
        return answer_batch(network, inputs)


class UNetPredictor:
    """A trained U-Net, with all that an evaluation asks of a model.

    Attributes:
        network, preprocessing, thresholds, zone_rule: as of `prsmed.predictor.Predictor`.
    """

    def __init__(self, network: TargetUNet, preprocessing: Preprocessing, info: dict[str, Any], device: Any = "cpu"):
        self.network = network.to(device).eval()
        self.preprocessing = preprocessing
        self.info = info
        self.thresholds: Mapping[str, float] = info["thresholds"]
        self.zone_rule: str = info["zone_rule"]

    @classmethod
    def load(cls, model: str | Path, device: Any = "cpu") -> UNetPredictor:
        """Load the folder that a training with configs/train_unet.json wrote.

        Raises:
            CheckpointError: missing, damaged or foreign files.
        """
        folder = model_folder(model)
        info = read_info(folder)
        if info["task"] != TASK or "network" not in info:
            raise CheckpointError(f"{folder}: is a model for {info['task']}, not a U-Net; train one (docs/training.md)")
        network = TargetUNet(**info["network"])
        load_weights(folder, network)
        return cls(network, Preprocessing(info["preprocessing"]), info, device)

    def model_record(self) -> dict[str, Any]:
        """Name, version, weights' hash and licence, for the report."""
        return {
            "name": self.info["name"],
            "version": self.info["version"],
            "weights_sha256": self.info["weights"]["sha256"],
            "licence": self.info["licence"],
        }
