"""Segmentation encoders: each owns its preprocessing (frame and normalisation); callers hand over canonical images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder

from prsmed.geometry import Frame
from prsmed.models.evidence import Evidence
from prsmed.models.feature_cache import FeatureCache
from prsmed.models.pretrained import Renames, load_strictly, part
from prsmed.models.tiny_vit import TinyViT
from prsmed.windows import map_windows

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_VIT_NAMES: Renames = (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^blocks\.(\d+)\.norm(\d)\.", r"layers.\1.layer_norm\2."),
    (r"^blocks\.", "layers."),
    (r"^neck\.0\.", "neck.conv1."),
    (r"^neck\.1\.", "neck.layer_norm1."),
    (r"^neck\.2\.", "neck.conv2."),
    (r"^neck\.3\.", "neck.layer_norm2."),
)


@dataclass
class EncodedImage:
    """What an encoder gives.

    Attributes:
        features: (B, C, h, w), the encoder frame at `stride`.
        skips: finer maps of the same frame, finest first; their strides are `SegmentationEncoder.skip_strides`.
        stride: frame pixels a step of the feature map.
    """

    features: torch.Tensor
    skips: tuple[torch.Tensor, ...]
    stride: int

    def select(self, index_K: torch.Tensor) -> EncodedImage:
        """The maps of the images named by `index_K`, one row per object."""
        return EncodedImage(self.features[index_K], tuple(skip[index_K] for skip in self.skips), self.stride)


class Looked(NamedTuple):
    """What a network makes of images before it is asked.

    Attributes:
        maps: the encoder's.
        image_embeds: (B, N, D), what the language model reads.
        evidence: of PRS-Med, where it has an evidence head.
        cells: (B, E, h, w) of MediSee's coarse mask, where it has one.
    """

    maps: EncodedImage
    image_embeds: torch.Tensor
    evidence: Evidence | None = None
    cells: torch.Tensor | None = None


class SegmentationEncoder(nn.Module):
    """Interface. `frame` says how a canonical image is placed; `channels`, `skip_channels` describe the maps."""

    frame: Frame
    channels: int
    stride: int
    skip_channels: tuple[int, ...]
    skip_strides: tuple[int, ...]

    def preprocess(self, image_BCHW: torch.Tensor, canonical_hw_px: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Canonical images in [0, 1], padded to a common size, as this encoder wants them: (B, 3, S, S)."""
        raise NotImplementedError

    cache: FeatureCache | None = None
    """Where the maps of the part that rests are kept on disk."""

    def forward(self, frame_BCHW: torch.Tensor) -> EncodedImage:
        return self.finish(self.resting_maps(frame_BCHW))

    def resting_maps(self, frame_BCHW: torch.Tensor) -> list[torch.Tensor]:
        """Maps of the part that rests while maps are kept; all of an encoder, unless it has an open part."""
        raise NotImplementedError

    def finish(self, maps: Sequence[torch.Tensor]) -> EncodedImage:
        """The open part, from the maps of `resting_maps`."""
        return EncodedImage(maps[0], tuple(maps[1:]), self.stride)

    def is_open(self, name: str) -> bool:
        """Whether a tensor of this name belongs to the open part, which may learn while maps are kept."""
        return False

    def encode(
        self,
        image_BCHW: torch.Tensor,
        canonical_hw_px: Sequence[tuple[int, int]],
        windows_xyxy_norm: torch.Tensor | None = None,
    ) -> EncodedImage:
        """Canonical images to maps, through the cache where there is one.

        Args:
            windows_xyxy_norm: (B, 4) the part of each image whose maps are wanted, see `prsmed.windows`.
        """
        frame_BCHW = self.preprocess(image_BCHW, canonical_hw_px)
        if self.cache is None:
            encoded = self(frame_BCHW)  # as a module, which may be compiled
            maps = [encoded.features, *encoded.skips]
        else:
            maps = self.cache.maps(self, frame_BCHW)
        if windows_xyxy_norm is not None:
            maps = [map_windows(one, windows_xyxy_norm, self.frame, canonical_hw_px) for one in maps]
        return EncodedImage(maps[0], tuple(maps[1:]), self.stride) if self.cache is None else self.finish(maps)

    def load_segment_anything(self, tensors: Mapping[str, torch.Tensor], *, source: str) -> None:
        """Load the image encoder of a whole segment-anything state dict.

        Raises:
            CheckpointError: a tensor of the encoder is missing, extra or of another shape; `source` names the file.
        """
        raise NotImplementedError


class TinyViTEncoder(SegmentationEncoder):
    """TinyViT in a padded square frame, normalised with ImageNet's mean and deviation (as TinySAM and MobileSAM).

    Both were trained at 1024 px; at 256 px the map is 16x16, as in the table of PRS-Med's project page.

    Args:
        size_px: side of the frame.
        skip_stages: which stages' maps are handed to the decoder as skip connections, finest first.
        open_stages: how many of the last stages, and with them the neck, may learn while the maps before are kept.
        vit: arguments of `TinyViT`.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, *, size_px: int, skip_stages: Sequence[int] = (), open_stages: int = 0, **vit: Any):
        super().__init__()
        self.frame = Frame(size_px, "pad")
        self.net = TinyViT(**vit)
        self.open_stages, self.resting_stages = open_stages, len(self.net.layers) - open_stages
        assert all(stage < self.resting_stages for stage in skip_stages), "a skip connection comes from a resting stage"
        self.channels = self.net.channels
        self.stride = self.net.stride
        self.skip_stages = tuple(skip_stages)
        widths = vit.get("widths", (64, 128, 160, 320))
        first = vit.get("patch_stride", 2) ** 2
        self.skip_channels = tuple(widths[stage] for stage in self.skip_stages)
        self.skip_strides = tuple(min(first * 2**stage, self.stride) for stage in self.skip_stages)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def preprocess(self, image_BCHW: torch.Tensor, canonical_hw_px: Sequence[tuple[int, int]]) -> torch.Tensor:
        normalised = (image_BCHW - self.mean) / self.std
        return self.frame.enter(normalised, canonical_hw_px)

    def resting_maps(self, frame_BCHW: torch.Tensor) -> list[torch.Tensor]:
        if self.open_stages:
            last, stages = self.net.begin(frame_BCHW, stages=self.resting_stages)
        else:
            last, stages = self.net(frame_BCHW)
        return [last, *(stages[stage] for stage in self.skip_stages)]

    def finish(self, maps: Sequence[torch.Tensor]) -> EncodedImage:
        features = self.net.end(maps[0], stages=self.open_stages) if self.open_stages else maps[0]
        return EncodedImage(features, tuple(maps[1:]), self.stride)

    def is_open(self, name: str) -> bool:
        last = [f"net.layers.{stage}." for stage in range(self.resting_stages, len(self.net.layers))]
        return self.open_stages > 0 and name.startswith(("net.neck.", *last))

    def load_segment_anything(self, tensors: Mapping[str, torch.Tensor], *, source: str) -> None:
        # The classification head of ImageNet stays in some files but never runs.
        own = part(tensors, "image_encoder.")
        load_strictly(self.net, own, source=source, unused=("head.", "norm_head."))


class LiteMedSAMEncoder(TinyViTEncoder):
    """LiteMedSAM's TinyViT: 256 px in, a map of 64x64 at stride 4; brightness stretched to [0, 1] image by image."""

    def __init__(self, *, size_px: int = 256, skip_stages: Sequence[int] = (), open_stages: int = 0):
        super().__init__(
            size_px=size_px, skip_stages=skip_stages, open_stages=open_stages, patch_kernel=1, patch_stride=1
        )

    def preprocess(self, image_BCHW: torch.Tensor, canonical_hw_px: Sequence[tuple[int, int]]) -> torch.Tensor:
        return stretched(self.frame, image_BCHW, canonical_hw_px)

    def resting_maps(self, frame_BCHW: torch.Tensor) -> list[torch.Tensor]:
        """Frame by frame where nothing is learned: the first stage takes half a gigabyte for each."""
        learns = any(parameter.requires_grad for parameter in self.parameters())
        if (learns and torch.is_grad_enabled()) or len(frame_BCHW) == 1:
            return super().resting_maps(frame_BCHW)
        singles = [super(LiteMedSAMEncoder, self).resting_maps(frame_1CHW) for frame_1CHW in frame_BCHW.split(1)]
        return [torch.cat(column) for column in zip(*singles, strict=True)]


class SamViTEncoder(SegmentationEncoder):
    """SAM's plain ViT (ViT-B by default) in a padded square frame, normalised with ImageNet's mean and deviation.

    Args:
        size_px: side of the frame; the weights fix it.
        vit: fields of transformers' `SamVisionConfig` that differ from ViT-B.
    """

    mean: torch.Tensor
    std: torch.Tensor
    skip_channels = ()
    skip_strides = ()

    def __init__(self, *, size_px: int = 1024, **vit: Any):
        super().__init__()
        config = SamVisionConfig(image_size=size_px, patch_size=16, **vit)
        config._attn_implementation = "sdpa"
        self.frame = Frame(size_px, "pad")
        self.net = SamVisionEncoder(config)
        self.channels = config.output_channels
        self.stride = 16
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def preprocess(self, image_BCHW: torch.Tensor, canonical_hw_px: Sequence[tuple[int, int]]) -> torch.Tensor:
        return self.frame.enter((image_BCHW - self.mean) / self.std, canonical_hw_px)

    def resting_maps(self, frame_BCHW: torch.Tensor) -> list[torch.Tensor]:
        return [self.net(frame_BCHW).last_hidden_state]

    def load_segment_anything(self, tensors: Mapping[str, torch.Tensor], *, source: str) -> None:
        load_strictly(self.net, part(tensors, "image_encoder."), source=source, renames=_VIT_NAMES)


class MedSAMEncoder(SamViTEncoder):
    """MedSAM's ViT-B: the image fills the square frame, its brightness is stretched to [0, 1] (Ma et al. 2024)."""

    def __init__(self, *, size_px: int = 1024, **vit: Any):
        super().__init__(size_px=size_px, **vit)
        self.frame = Frame(size_px, "squash")

    def preprocess(self, image_BCHW: torch.Tensor, canonical_hw_px: Sequence[tuple[int, int]]) -> torch.Tensor:
        return stretched(self.frame, image_BCHW, canonical_hw_px)


def stretched(frame: Frame, image_BCHW: torch.Tensor, canonical_hw_px: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Canonical images in the frame, each stretched to [0, 1] over its own content; padding stays zero.

    As MedSAM and LiteMedSAM do it: after the resizing, over all channels together. A constant image becomes zero.
    """
    framed = frame.enter(image_BCHW, canonical_hw_px)
    for image_CHW, hw_px in zip(framed, canonical_hw_px, strict=True):
        rows, columns = frame.content_hw_px(hw_px)
        content = image_CHW[:, :rows, :columns]
        low, high = content.amin(), content.amax()
        content.sub_(low).div_((high - low).clamp(min=1e-8))
    return framed
