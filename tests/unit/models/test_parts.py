"""Encoder, fusion, decoder and the table of presets: shapes that follow from strides, and masks that shut out."""

import pytest
import torch

from prsmed.errors import RequestError
from prsmed.models.encoders import IMAGENET_MEAN, IMAGENET_STD
from prsmed.models.fusion import CrossAttentionFusion, sincos_positions
from prsmed.models.mask_decoder import MaskDecoder
from prsmed.models.presets import PRESETS, build_network, image_tokens, preset_bases, sizes
from tests.unit.small_networks import small_network, small_text


@pytest.fixture(scope="module")
def encoder():
    return small_network(50).encoder.eval()


def test_maps_have_the_strides_they_claim(encoder):
    with torch.no_grad():
        encoded = encoder(torch.randn(2, 3, 32, 32))
    assert encoded.features.shape == (2, encoder.channels, 32 // encoder.stride, 32 // encoder.stride)
    assert len(encoded.skips) == len(encoder.skip_strides) == 2
    for skip, channels, stride in zip(encoded.skips, encoder.skip_channels, encoder.skip_strides, strict=True):
        assert skip.shape == (2, channels, 32 // stride, 32 // stride)
    chosen = encoded.select(torch.tensor([1, 1, 0]))
    assert torch.equal(chosen.features[1], encoded.features[1]) and torch.equal(chosen.skips[0][2], encoded.skips[0][0])


def test_preprocessing_normalises_the_image_and_not_the_padding(encoder):
    image = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1).expand(1, 3, 40, 40).clone()
    image[:, :, :16] += torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    framed = encoder.preprocess(image, [(16, 32)])
    assert framed.shape == (1, 3, 32, 32)
    torch.testing.assert_close(framed[:, :, :16], torch.ones(1, 3, 16, 32), atol=1e-5, rtol=0)
    assert (framed[:, :, 16:] == 0).all()


def test_masked_prompt_states_have_no_influence():
    torch.manual_seed(0)
    fusion = CrossAttentionFusion(channels=8, prompt_width=12, width=16, heads=4, map_px=4).eval()
    features, prompt = torch.randn(2, 8, 4, 4), torch.randn(2, 5, 12)
    mask = torch.tensor([[True, True, False, False, False], [True, True, True, True, False]])
    other = torch.where(mask[..., None], prompt, prompt + 100)
    with torch.no_grad():
        assert torch.equal(fusion(features, prompt, mask), fusion(features, other, mask))
        assert not torch.equal(fusion(features, prompt, mask), fusion(features, prompt + 1, mask))


def test_a_larger_map_is_fused_through_the_pooled_one():
    torch.manual_seed(0)
    fusion = CrossAttentionFusion(channels=8, prompt_width=12, width=16, heads=4, map_px=4)
    features = torch.randn(1, 8, 16, 16)
    fused = fusion(features, torch.randn(1, 3, 12), torch.ones(1, 3, dtype=torch.bool))
    assert fused.shape == features.shape


def test_position_codes_are_different_everywhere_and_bounded():
    codes = sincos_positions(8, 32)
    assert codes.shape == (64, 32) and codes.abs().max() <= 1
    assert torch.cdist(codes, codes).add(torch.eye(64) * 9).min() > 0.1
    assert torch.equal(codes[0, ::16], torch.zeros(2)) and codes[0, 8] == 1  # sine and cosine of 0


@pytest.mark.parametrize(("stride", "out_stride", "steps"), [(16, 2, 3), (16, 1, 4), (8, 8, 0)])
def test_the_decoder_doubles_up_to_its_stride(stride, out_stride, steps):
    decoder = MaskDecoder(channels=32, stride=stride, out_stride=out_stride)
    assert len(decoder.blocks) == steps
    side = 4 * stride // out_stride
    assert decoder(torch.randn(2, 32, 4, 4), ()).shape == (2, 1, side, side)


def test_skips_enter_at_their_own_stride():
    torch.manual_seed(0)
    decoder = MaskDecoder(channels=32, stride=16, out_stride=2, skip_channels=(6, 12), skip_strides=(4, 8)).eval()
    fused, skips = torch.randn(1, 32, 4, 4), (torch.randn(1, 6, 16, 16), torch.randn(1, 12, 8, 8))
    with torch.no_grad():
        whole = decoder(fused, skips)
        for index in range(2):
            changed = [skip + (position == index) for position, skip in enumerate(skips)]
            assert not torch.equal(decoder(fused, changed), whole)


def test_every_preset_builds_and_takes_its_own_texts():
    text = small_text()
    for task, preset in PRESETS:
        if preset_bases(preset):
            continue  # pretrained: test_bases.py, test_llava.py and the meta device (test_meta.py) build those
        network = build_network(task, preset, vocab_size=len(text.tokenizer))
        assert network.language.image_tokens == image_tokens(task, preset)
        side_px = network.encoder.frame.size_px
        with torch.no_grad():
            embeds = (
                network.eval()
                .encode_image(torch.rand(1, 3, side_px, side_px // 2), [(side_px, side_px // 2)])
                .image_embeds
            )
        assert embeds.shape == (1, image_tokens(task, preset), network.language.hidden_width)


def test_the_tiny_preset_is_tiny():
    network = build_network("prs_med", "tiny", vocab_size=1000)
    assert 2 * sum(parameter.numel() for parameter in network.parameters()) < 10e6, "over 10 MB as float16"


def test_unknown_presets_are_refused():
    with pytest.raises(RequestError, match="no preset 'huge' for task 'prs_med'; there is: tiny for prs_med"):
        sizes("prs_med", "huge")
