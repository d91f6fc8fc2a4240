"""What MONAI's engines need to train and question a network that reads image and text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
import torch
from monai.inferers import Inferer
from torch import nn

from bundle.data import checked_request
from prsmed.answers import RawAnswers, answer_batch
from prsmed.data.containment import file_inside
from prsmed.errors import PrsmedError
from prsmed.models.checkpoints import model_folder
from prsmed.models.presets import build_network, image_tokens, sizes
from prsmed.models.prs_med import PRSMed, PRSMedOutput
from prsmed.predictor import Predictor
from prsmed.text.encode import TextEncoder, load_tokenizer, pad_batch


def tokenizer_file(task: str, preset: str):
    """Where the preset's tokenizer lies."""
    return model_folder(sizes(task, preset)["tokenizer"]) / "tokenizer.json"


def build_text(task: str, preset: str) -> TextEncoder:
    """The one encoder of questions and answers."""
    return TextEncoder(load_tokenizer(tokenizer_file(task, preset)), image_tokens=image_tokens(task, preset))


def build_trainable(task: str, preset: str, *, text: TextEncoder, device: Any, seed: int) -> nn.Module:
    """The preset's network from its first weights; in a process group, wrapped so that gradients are shared."""
    torch.manual_seed(seed)
    network = build_network(task, preset, vocab_size=len(text.tokenizer)).to(device)
    if idist.get_world_size() == 1:
        return network
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(network) if torch.cuda.is_available() else network
    return nn.parallel.DistributedDataParallel(synced, find_unused_parameters=True)


def join_processes() -> None:
    """Join the process group that `torchrun` describes: NCCL where there is CUDA, gloo on the CPU."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    # Ignite makes a group of its own at first use; do it here, on every rank, or rank 0 waits for the others later.
    idist.sync()


def local_device() -> torch.device:
    """This rank's device: its own GPU, or the CPU."""
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")


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


class PassInferer(Inferer):
    """One forward pass with the answers in the sequence, for training; bf16 on CUDA, float32 elsewhere."""

    def __call__(self, inputs: Mapping[str, Any], network: nn.Module, *_: Any, **__: Any) -> PRSMedOutput:
        image = inputs["image"]
        with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=image.is_cuda):
            return network(
                image,
                [geometry.canonical_hw_px for geometry in inputs["geometry"]],
                inputs["input_ids"],
                inputs["attention_mask"],
                inputs["prompt_mask"],
                obj_image=inputs["obj_image"],
                target_ids=inputs["target_ids"],
            )


class AskInferer(Inferer):
    """Questions in, masks and greedy sentences out: the predictor's own function on a batch."""

    def __init__(self, text: TextEncoder):
        self.text = text

    def __call__(self, inputs: Mapping[str, Any], network: nn.Module, *_: Any, **__: Any) -> RawAnswers:
        with torch.autocast(inputs["image"].device.type, dtype=torch.bfloat16, enabled=inputs["image"].is_cuda):
            network_bare = bare(network)
            assert isinstance(network_bare, PRSMed)
            return answer_batch(network_bare, inputs, self.text)


class AnswerInferer(Inferer):
    """One request to its session and answer; a `PrsmedError` is returned, so that the other requests go on."""

    def __call__(self, inputs: Mapping[str, Any], network: nn.Module, *_: Any, **__: Any) -> Any:
        assert isinstance(network, ImageToMask)
        try:
            request = checked_request(inputs["request"])
            image = file_inside(inputs["image_dir"], request["image"], "request")
            session = network.predictor.open(image, modality=request["modality"], position=request["position"])
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
        height, width = image_BCHW.shape[-2:]
        encoded = [self.predictor.text.encode(question)] * len(image_BCHW)
        ids = pad_batch(encoded, self.predictor.text.pad_id)
        output = self.network(
            image_BCHW, [(height, width)] * len(image_BCHW), ids["input_ids"], ids["attention_mask"], ids["prompt_mask"]
        )
        return output.mask_logits.sigmoid()
