"""What MONAI's engines need to train and question a network that reads image and text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

import ignite.distributed as idist
import torch
from monai.inferers import Inferer
from torch import nn

from bundle.data import checked_request
from bundle.distributed import share
from prsmed.answers import RawAnswers, answer_batch
from prsmed.data.containment import file_inside
from prsmed.errors import PrsmedError
from prsmed.geometry import Geometry
from prsmed.models.checkpoints import base_of, load_weights, model_folder
from prsmed.models.medisee import MediSee
from prsmed.models.presets import build_network
from prsmed.models.prs_med import PRSMed, PRSMedOutput
from prsmed.predictor import Predictor
from prsmed.text.encode import TextEncoder
from prsmed.volumes import VolumeOptions


def build_trainable(
    task: str,
    preset: str,
    *,
    text: TextEncoder,
    device: Any,
    seed: int,
    start_from: str | None = None,
    language_dtype: str | None = None,
    stages: Sequence[Mapping[str, Any]] = (),
    sharded: bool = False,
) -> nn.Module:
    """The preset's network, ready to learn; in a process group, wrapped so that gradients are shared.

    Args:
        start_from: a model folder whose weights it goes on from, or the name of a shipped one; None: its first weights.
        language_dtype: how a published language model is held while adapters beside it learn: "float32" or "bfloat16";
            None: as its preset holds it.
        stages: of the training; what learns in any of them is known to the wrapper.
        sharded: among several processes, FSDP instead of DDP.

    Raises:
        CheckpointError: `start_from` is no model folder, or holds another network.
    """
    torch.manual_seed(seed)
    network = build_network(task, preset, vocab_size=len(text.tokenizer)).to(device)
    if start_from is not None:
        load_weights(model_folder(start_from), network)
    for name, parameter in network.named_parameters():
        held = language_dtype and name.startswith("language.") and name in base_of(network).names
        if held and parameter.is_floating_point():  # quantised weights are codes, not numbers
            parameter.data = parameter.data.to(getattr(torch, language_dtype))
    if idist.get_world_size() == 1:
        return network
    patterns = [pattern for stage in stages for pattern in stage["trainable"]]
    for name, parameter in network.named_parameters():
        if any(fnmatch(name, pattern) for pattern in patterns):
            parameter.requires_grad_(True)
    return share(network, sharded=sharded)


def bare(network: nn.Module) -> nn.Module:
    """The network without a wrapper for several processes."""
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network


def prepare_batch(
    batch: Mapping[str, Any], device: Any, non_blocking: bool, **_: Any
) -> tuple[torch.Tensor, dict[str, Any]]:
    """MONAI's hook: (what the inferer gets, what the loss gets). Both see the whole batch, on the device."""
    moved = {
        name: value.to(device, non_blocking=non_blocking) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }
    return moved, moved  # type: ignore[return-value]


def mixed_precision(network: nn.Module, image_BCHW: torch.Tensor) -> torch.autocast:
    """bf16 on CUDA, and wherever a part of the network is held in it; float32 elsewhere."""
    held = any(parameter.dtype == torch.bfloat16 for parameter in network.parameters())
    return torch.autocast(image_BCHW.device.type, dtype=torch.bfloat16, enabled=image_BCHW.is_cuda or held)


class PassInferer(Inferer):
    """One forward pass with the answers in the sequence, for training."""

    def __call__(self, inputs: Mapping[str, Any], network: nn.Module, *_: Any, **__: Any) -> PRSMedOutput:
        image = inputs["image"]
        with mixed_precision(network, image):
            return network(
                image,
                [geometry.canonical_hw_px for geometry in inputs["geometry"]],
                inputs["input_ids"],
                inputs["attention_mask"],
                inputs["prompt_mask"],
                obj_image=inputs["obj_image"],
                target_ids=inputs["target_ids"],
                windows_xyxy_norm=inputs.get("windows_xyxy_norm"),
            )


class AskInferer(Inferer):
    """Questions in, masks and greedy sentences out: the predictor's own function on a batch.

    What was compiled for training rests: shapes here are others, each word has its own, and every one would compile.

    Args:
        words: False leaves the sentences out, which take most of the time.
        names: of all that an explanation may name.
    """

    def __init__(self, text: TextEncoder, *, words: bool = True, names: Iterable[str] = ()):
        self.text, self.words, self.names = text, words, names

    def __call__(self, inputs: Mapping[str, Any], network: nn.Module, *_: Any, **__: Any) -> RawAnswers:
        with mixed_precision(network, inputs["image"]), torch.compiler.set_stance("force_eager"):
            network_bare = bare(network)
            assert isinstance(network_bare, (PRSMed, MediSee))
            return answer_batch(network_bare, inputs, self.text, words=self.words, names=self.names)


class AnswerInferer(Inferer):
    """One request to its session and answer; a `PrsmedError` is returned, so that the other requests go on.

    Args:
        volume: how whole volumes are asked.
    """

    def __init__(self, volume: VolumeOptions | None = None):
        self.volume = volume

    def __call__(self, inputs: Mapping[str, Any], network: nn.Module, *_: Any, **__: Any) -> Any:
        assert isinstance(network, ImageToMask)
        try:
            request = checked_request(inputs["request"])
            image = file_inside(inputs["image_dir"], request["image"], "request")
            session = network.predictor.open(
                image,
                modality=request["modality"],
                position=request["position"],
                volume=self.volume,
                series_uid=request["series"],
                frame=request["frame"],
            )
            return session, session.ask(request["question"])
        except PrsmedError as error:
            return error


def keep_batch(batch: Any, *_: Any, **__: Any) -> tuple[Any, None]:
    """MONAI's hook for batches that are requests: nothing to move to a device."""
    return batch, None


class ImageToMask(nn.Module):
    """The network as MONAI's `verify_net_in_out` and generic tools expect it: image -> mask, question optional.

    Args:
        predictor: a loaded model.

    Shape: image (B, 3, H, W) float32 in [0, 1] -> mask probabilities (B, 1, H, W).
    """

    def __init__(self, predictor: Predictor):
        super().__init__()
        self.predictor = predictor
        self.network = predictor.network

    def forward(self, image_BCHW: torch.Tensor, question: str = "Where is the lesion?") -> torch.Tensor:
        hw_px = (image_BCHW.shape[-2], image_BCHW.shape[-1])
        batch = {
            **self.predictor.questions(question, len(image_BCHW)),
            "image": image_BCHW,
            "geometry": [Geometry(hw_px, hw_px)] * len(image_BCHW),
        }
        names = self.predictor.info.get("targets", ())
        return answer_batch(self.network, batch, self.predictor.text, words=False, names=names).mask_prob
