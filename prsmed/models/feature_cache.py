"""Features of a frozen encoder on disk: each picture is encoded once, however often training looks at it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from prsmed.data.writers.atomic import replaced_whole
from prsmed.errors import RequestError

if TYPE_CHECKING:
    from prsmed.models.encoders import SegmentationEncoder


class FeatureCache:
    """Maps of an encoder by the content of what it sees: the preprocessed frame's bytes and the encoder's weights.

    Whatever the picture came from, a frame that differs in one value, or another encoder, is another entry. Maps are
    kept as float16.

    Args:
        folder: where entries lie; several runs and processes may share it.
        encoder: whose maps these are. The weights of its part that rests must not change from now on.
    """

    def __init__(self, folder: str | Path, encoder: SegmentationEncoder):
        self.folder = Path(folder)
        digest = hashlib.sha256(str(encoder.skip_strides).encode())
        for name, tensor in sorted(encoder.state_dict().items()):
            if encoder.is_open(name):
                continue
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        self.encoder_sha256 = digest.hexdigest()

    def maps(self, encoder: SegmentationEncoder, frame_BCHW: torch.Tensor) -> list[torch.Tensor]:
        """What `encoder.resting_maps` makes of frames (B, 3, S, S), from disk where it is known; new maps are written.

        Raises:
            RequestError: the part that should rest learns: its maps change with every step and cannot be kept.
            DataError: the folder cannot be written.
        """
        if any(parameter.requires_grad and not encoder.is_open(name) for name, parameter in encoder.named_parameters()):
            raise RequestError(
                "the encoder is being trained, so its maps cannot be cached; set feature_cache to null, or train its"
                " last stage alone, with a preset ..._open (docs/training.md)"
            )
        with torch.autocast(frame_BCHW.device.type, enabled=False):
            return self._known_or_new(encoder, frame_BCHW)

    def _known_or_new(self, encoder: SegmentationEncoder, frame_BCHW: torch.Tensor) -> list[torch.Tensor]:
        paths = [self._path(frame_CHW) for frame_CHW in frame_BCHW]
        known = [self._read(path) for path in paths]
        unknown = [index for index, maps in enumerate(known) if maps is None]
        if unknown:
            with torch.no_grad():
                fresh = encoder.resting_maps(frame_BCHW[unknown])
            for row, index in enumerate(unknown):
                maps = [one[row].half().cpu() for one in fresh]
                if not all(bool(one.isfinite().all()) for one in maps):
                    raise RequestError(
                        "the encoder's maps exceed float16 and cannot be kept; set feature_cache to null"
                    )
                self._write(paths[index], maps)
                known[index] = maps
        device = frame_BCHW.device
        columns = zip(*(maps for maps in known if maps is not None), strict=True)
        return [torch.stack(column).to(device).float() for column in columns]

    def _path(self, frame_CHW: torch.Tensor) -> Path:
        digest = hashlib.sha256(self.encoder_sha256.encode())
        digest.update(frame_CHW.cpu().contiguous().numpy().tobytes())
        key = digest.hexdigest()
        return self.folder / key[:2] / f"{key}.safetensors"

    @staticmethod
    def _read(path: Path) -> list[torch.Tensor] | None:
        try:
            tensors = load_file(path)
        except (FileNotFoundError, SafetensorError):  # a damaged entry is made again
            return None
        return [tensors[f"map{index}"] for index in range(len(tensors))]

    @staticmethod
    def _write(path: Path, maps: list[torch.Tensor]) -> None:
        with replaced_whole(path) as part:
            save_file({f"map{index}": one.contiguous() for index, one in enumerate(maps)}, part)


def keep_maps(encoder: SegmentationEncoder, folder: str | Path) -> None:
    """Freeze an encoder, and from now on keep its maps in `folder`."""
    encoder.requires_grad_(False).eval()
    encoder.cache = FeatureCache(folder, encoder)
