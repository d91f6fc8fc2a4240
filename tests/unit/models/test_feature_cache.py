"""Cached maps are the encoder's own, found again by content, and never another encoder's."""

from pathlib import Path

import pytest
import torch

from prsmed.errors import RequestError
from prsmed.models.checkpoints import load_weights, save_model, set_base
from prsmed.models.encoders import TinyViTEncoder
from prsmed.models.feature_cache import FeatureCache
from tests.unit.small_networks import TOKENIZER

SIZES = {"widths": (8, 16, 16, 16), "depths": (1, 1, 1, 1), "heads": (1, 2, 2, 2), "windows": (4, 4, 4, 4)}
HW_PX = [(32, 32), (24, 32)]


def _encoder(
    folder: Path | None, *, seed: int = 0, skip_stages: tuple[int, ...] = (0,), open_stages: int = 0
) -> TinyViTEncoder:
    torch.manual_seed(seed)
    encoder = TinyViTEncoder(size_px=32, skip_stages=skip_stages, open_stages=open_stages, neck_channels=16, **SIZES)
    encoder = encoder.requires_grad_(False).eval()
    if folder is not None:
        encoder.cache = FeatureCache(folder, encoder)
    return encoder


def _images() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_maps_from_disk_are_the_encoders_to_half_precision(tmp_path):
    encoder, plain = _encoder(tmp_path), _encoder(None)
    first, again, own = (one.encode(_images(), HW_PX) for one in (encoder, encoder, plain))
    assert len(_entries(tmp_path)) == 2
    for cached, exact in zip([again.features, *again.skips], [own.features, *own.skips], strict=True):
        torch.testing.assert_close(cached, exact, atol=2e-3, rtol=1e-3)  # float16 keeps three digits
    assert torch.equal(first.features, again.features)


def test_a_known_picture_is_not_encoded_again(tmp_path, monkeypatch):
    encoder = _encoder(tmp_path)
    encoder.encode(_images()[:1], HW_PX[:1])
    seen = []
    resting_maps = encoder.resting_maps
    monkeypatch.setattr(encoder, "resting_maps", lambda frame: seen.append(len(frame)) or resting_maps(frame))
    encoder.encode(_images(), HW_PX)
    encoder.encode(_images(), HW_PX)
    assert seen == [1]


@pytest.mark.parametrize("other", [{"seed": 1}, {"skip_stages": (0, 1)}])
def test_another_encoder_finds_nothing(tmp_path, other):
    _encoder(tmp_path).encode(_images(), HW_PX)
    encoded = _encoder(tmp_path, **other).encode(_images(), HW_PX)
    assert len(_entries(tmp_path)) == 4
    assert len(encoded.skips) == len(other.get("skip_stages", (0,)))


def test_a_damaged_entry_is_made_again(tmp_path):
    encoder = _encoder(tmp_path)
    whole = encoder.encode(_images(), HW_PX).features
    for path in _entries(tmp_path):
        path.write_bytes(path.read_bytes()[:40])
    assert torch.equal(encoder.encode(_images(), HW_PX).features, whole)
    assert torch.equal(encoder.encode(_images(), HW_PX).features, whole)


def test_an_encoder_that_learns_cannot_be_cached(tmp_path):
    encoder = _encoder(tmp_path)
    encoder.net.neck.requires_grad_(True)
    with pytest.raises(RequestError, match="being trained"):
        encoder.encode(_images(), HW_PX)


def test_mixed_precision_does_not_reach_the_cache(tmp_path):
    """A picture first seen under autocast is kept as exactly as any other."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = _encoder(tmp_path).encode(_images(), HW_PX).features
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, _encoder(None).encode(_images(), HW_PX).features, atol=2e-3, rtol=1e-3)


def test_an_open_part_learns_on_kept_maps(tmp_path):
    encoder, plain = _encoder(tmp_path, open_stages=1), _encoder(None)
    before = encoder.encode(_images(), HW_PX)
    own = plain.encode(_images(), HW_PX)
    torch.testing.assert_close(before.features, own.features, atol=5e-3, rtol=5e-3)  # behind the kept float16 map
    torch.testing.assert_close(before.skips[0], own.skips[0], atol=2e-3, rtol=1e-3)
    learning = {name for name, _ in encoder.named_parameters() if encoder.is_open(name)}
    assert {name.split(".")[1] for name in learning} == {"layers", "neck"}
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name in learning)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    encoder.encode(_images(), HW_PX).features.square().sum().backward()
    assert {name for name, parameter in encoder.named_parameters() if parameter.grad is not None} == learning
    optimizer.step()
    after = encoder.encode(_images(), HW_PX)
    assert (after.features - before.features).abs().max() > 1e-3 and torch.equal(after.skips[0], before.skips[0])
    assert len(_entries(tmp_path)) == 2  # whatever the open part has learned, the maps before it are the same
    encoder.net.layers[0].requires_grad_(True)
    with pytest.raises(RequestError, match="being trained"):
        encoder.encode(_images(), HW_PX)


def test_an_open_part_is_no_other_network(tmp_path):
    closed, opened = _encoder(None), _encoder(None, open_stages=2, skip_stages=(0,))
    for one, other in zip(
        (closed(_images()), closed.encode(_images(), HW_PX)),
        (opened(_images()), opened.encode(_images(), HW_PX)),
        strict=True,
    ):
        assert torch.equal(one.features, other.features) and torch.equal(one.skips[0], other.skips[0])


def test_what_an_open_part_learned_of_a_base_is_saved_with_its_statistics(tmp_path):
    """The rest comes from the base again: only the last stage and the neck are in the file."""
    identity = [{"name": "rule", "sha256": "0" * 64, "licence": "none"}]
    trained, fresh = _encoder(None, open_stages=1), _encoder(None, open_stages=1)
    for encoder in (trained, fresh):
        set_base(encoder, identity, encoder.state_dict())
    for name, parameter in trained.named_parameters():
        parameter.requires_grad_(trained.is_open(name))
    trained.net.layers[3].train()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    trained.encode(_images(), HW_PX).features.square().sum().backward()
    optimizer.step()
    moved = [name for name, tensor in trained.state_dict().items() if not torch.equal(tensor, fresh.state_dict()[name])]
    assert any(name.endswith("running_mean") for name in moved) and all(map(trained.is_open, moved))
    save_model(tmp_path, trained, {"task": "prs_med", "preset": "tiny_open"}, tokenizer_file=TOKENIZER)
    load_weights(tmp_path, fresh)
    trained.eval()
    with torch.no_grad():
        answers = [encoder.encode(_images(), HW_PX).features for encoder in (trained, fresh)]
    torch.testing.assert_close(*answers)
    size = max(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    whole = sum(tensor.nbytes for tensor in trained.state_dict().values())
    assert size < whole / 2


def test_maps_beyond_half_precision_are_refused(tmp_path):
    encoder = _encoder(None)
    encoder.net.neck[3].bias.data += 1e5
    encoder.cache = FeatureCache(tmp_path, encoder)
    with pytest.raises(RequestError, match="float16"):
        encoder.encode(_images(), HW_PX)
    assert not _entries(tmp_path)
