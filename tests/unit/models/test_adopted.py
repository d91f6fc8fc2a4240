"""Bases that a user brings: checked on the way in, and every time they are used."""

import pytest
import torch

from prsmed.errors import CheckpointError
from prsmed.models.adopted import adopt_sam, any_base_file, any_base_folder, any_base_identity
from prsmed.models.checkpoints import sha256_of
from prsmed.models.encoders import TinyViTEncoder
from prsmed.models.pretrained import read_torch_file, renamed
from prsmed.models.sam import SAM_NAMES, SamPrompting


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRSMED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file in TinySAM's layout, made from our own modules by the names of segment-anything."""
    torch.manual_seed(0)
    encoder, sam = TinyViTEncoder(size_px=1024), SamPrompting(frame_px=1024)
    tensors = {f"image_encoder.{name}": tensor for name, tensor in encoder.net.state_dict().items()}
    for name in _original_names():
        tensors[name] = sam.state_dict()[renamed(name, SAM_NAMES)]
    tensors["image_encoder.head.weight"] = torch.zeros(1, 320)
    path = tmp_path_factory.mktemp("sam") / "mine.pth"
    torch.save(tensors, path)
    return path


def test_a_sam_is_adopted_and_found(cache, checkpoint):
    with pytest.raises(CheckpointError, match=r"scripts\.adopt_sam tinysam"):
        any_base_folder("tinysam")
    adopt_sam("tinysam", checkpoint)
    assert any_base_file("tinysam").name == "tinysam_42.3.pth"
    assert any_base_identity("tinysam") == {
        "name": "tinysam",
        "sha256": sha256_of(checkpoint),
        "licence": "Apache-2.0",
    }


def test_a_file_that_lacks_a_tensor_is_not_adopted(cache, checkpoint, tmp_path):
    tensors = dict(read_torch_file(checkpoint))
    del tensors["mask_decoder.iou_token.weight"]
    torch.save(tensors, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match=r"missing decoder\.iou_token\.weight"):
        adopt_sam("tinysam", tmp_path / "less.pth")
    assert not (cache / "bases" / "tinysam").exists()


def test_a_damaged_base_is_noticed(cache, checkpoint, monkeypatch):
    file = adopt_sam("mobile_sam", checkpoint) / "mobile_sam.pt"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="missing or damaged"):
        any_base_folder("mobile_sam")


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    (tmp_path / "sam.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"sam\.pth: not a torch file"):
        read_torch_file(tmp_path / "sam.pth")
    torch.save({"model": {"a": torch.zeros(1), "epoch": 3}}, tmp_path / "sam.pth")
    with pytest.raises(CheckpointError, match="more than named tensors"):
        read_torch_file(tmp_path / "sam.pth")


def _original_names() -> list[str]:
    """segment-anything's names of prompt encoder and decoder."""
    mlps = [f"mask_decoder.output_hypernetworks_mlps.{index}" for index in range(4)]
    layers = [f"{mlp}.layers.{k}" for mlp in [*mlps, "mask_decoder.iou_prediction_head"] for k in range(3)]
    attention = [
        f"mask_decoder.transformer.layers.{layer}.{kind}"
        for layer in range(2)
        for kind in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
    ]
    attention.append("mask_decoder.transformer.final_attn_token_to_image")
    projections = [f"{name}.{p}_proj" for name in attention for p in ("q", "k", "v", "out")]
    block = [f"mask_decoder.transformer.layers.{layer}" for layer in range(2)]
    norms = [f"{name}.norm{k}" for name in block for k in range(1, 5)] + ["mask_decoder.transformer.norm_final_attn"]
    mlp = [f"{name}.mlp.lin{k}" for name in block for k in (1, 2)]
    ups = [f"mask_decoder.output_upscaling.{k}" for k in (0, 1, 3)]
    downs = [f"prompt_encoder.mask_downscaling.{k}" for k in (0, 1, 3, 4, 6)]
    both = [f"{name}.{w}" for name in layers + projections + norms + mlp + ups + downs for w in ("weight", "bias")]
    points = [f"prompt_encoder.point_embeddings.{k}.weight" for k in range(4)]
    single = ["mask_decoder.iou_token.weight", "mask_decoder.mask_tokens.weight"]
    embeds = [f"prompt_encoder.{name}.weight" for name in ("no_mask_embed", "not_a_point_embed")]
    return [*both, *points, *single, *embeds, "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
