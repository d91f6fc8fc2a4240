"""The encoders against the originals' numbers, and whole checkpoint layouts through their strict loading.

Tolerance 1e-4: float32 rounding reaches 2e-5 with these weights, a wrong epsilon or split moves the output by far more.
"""

import pytest
import torch

from prsmed.errors import CheckpointError
from prsmed.models.encoders import LiteMedSAMEncoder, MedSAMEncoder, SamViTEncoder, SegmentationEncoder, TinyViTEncoder
from prsmed.models.sam import SamPrompting
from tests.parity.rule import difference, listed, numbers, rule_image, rule_weights

TINY_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "global_attn_indexes": [1],
}


@pytest.mark.parametrize("window", [4, 3])
def test_the_plain_vit_computes_what_segment_anything_does(window):
    expected = numbers("sam_tiny")
    encoder = SamViTEncoder(size_px=64, window_size=window, **TINY_VIT).eval()
    encoder.load_segment_anything(rule_weights(listed(f"sam_tiny_window{window}")), source="rule")
    with torch.no_grad():
        features = encoder(rule_image(64)).features
    assert difference(features, expected, f"window{window}.image_embedding") < 1e-4


@pytest.mark.parametrize(
    ("names", "file", "array", "encoder"),
    [
        ("tinysam_encoder", "tinysam_encoder", "px256.output", lambda: TinyViTEncoder(size_px=256)),
        ("tinysam_encoder", "tinysam_encoder", "px1024.output", lambda: TinyViTEncoder(size_px=1024)),
        ("lite_medsam_encoder", "lite_medsam", "rule.output", LiteMedSAMEncoder),
    ],
    ids=["TinySAM 256 px", "TinySAM 1024 px", "LiteMedSAM"],
)
def test_tiny_vit_computes_what_the_originals_do(names, file, array, encoder):
    expected = numbers(file)
    network: TinyViTEncoder = encoder().eval()
    tensors = {f"image_encoder.{name}": tensor for name, tensor in rule_weights(listed(names)).items()}
    network.load_segment_anything(tensors, source="rule")
    with torch.no_grad():
        features = network(rule_image(network.frame.size_px)).features
    assert features.shape[-1] == network.frame.size_px // network.stride
    assert difference(features, expected, array) < 1e-4


@pytest.mark.parametrize(
    ("layout", "encoder", "frame_px"),
    [
        ("lite_medsam_full", LiteMedSAMEncoder, 256),
        ("tinysam_full", lambda: TinyViTEncoder(size_px=1024), 1024),
        ("sam_vit_b", MedSAMEncoder, 1024),
    ],
    ids=["LiteMedSAM", "TinySAM and MobileSAM", "MedSAM"],
)
def test_every_name_of_a_checkpoint_is_used_once(layout, encoder, frame_px):
    rows = listed(layout)
    tensors = {name: torch.empty(shape, dtype=getattr(torch, dtype), device="meta") for name, shape, _, dtype in rows}
    with torch.device("meta"):
        network: SegmentationEncoder = encoder()
        prompting = SamPrompting(frame_px=frame_px)
    network.load_segment_anything(tensors, source=layout)
    prompting.load_segment_anything(tensors, source=layout)
    lost = next(name for name in tensors if name.startswith("image_encoder.") and name.endswith("proj.weight"))
    with pytest.raises(CheckpointError, match=r"missing .*proj"):
        network.load_segment_anything({k: v for k, v in tensors.items() if k != lost}, source=layout)
    with pytest.raises(CheckpointError, match=r"extra more\.weight"):
        network.load_segment_anything({**tensors, "image_encoder.more.weight": tensors[lost]}, source=layout)
