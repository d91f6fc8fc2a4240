"""What each encoder makes of a canonical image before it looks."""

import torch

from prsmed.models.encoders import IMAGENET_MEAN, IMAGENET_STD, LiteMedSAMEncoder, MedSAMEncoder, TinyViTEncoder

TINY = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "global_attn_indexes": [0]}


def test_lite_medsam_stretches_each_image_over_its_own_content():
    images = torch.full((2, 3, 128, 128), 9.0)  # the padding of a batch must not count
    images[0, :, :128, :64] = torch.linspace(0.2, 0.6, 64)
    images[1, :, :64, :128] = 0.3
    framed = LiteMedSAMEncoder().preprocess(images, [(128, 64), (64, 128)])
    assert framed.shape == (2, 3, 256, 256)
    first = framed[0, :, :, :128]
    assert float(first.min()) == 0 and float(first.max()) == 1
    assert bool((framed[0, :, :, 128:] == 0).all())
    assert bool((framed[1] == 0).all()), "a constant image has nothing to stretch"


def test_the_channels_are_stretched_together():
    image = (
        torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
        * torch.tensor([0.2, 0.5, 1.0])[:, None, None]
    )
    framed = LiteMedSAMEncoder().preprocess(image, [(256, 256)])
    torch.testing.assert_close(framed, (image - image.min()) / (image.max() - image.min()))


def test_medsam_fills_its_square():
    image = torch.zeros(1, 3, 40, 20)
    image[:, :, 20:] = 0.5
    framed = MedSAMEncoder(size_px=64, **TINY).preprocess(image, [(40, 20)])
    assert bool((framed[..., :30, :] == 0).all()) and bool((framed[..., 34:, :] == 1).all())


def test_tinysam_pads_with_zero_after_the_normalisation():
    image = torch.ones(1, 3, 32, 64)
    framed = TinyViTEncoder(size_px=64).preprocess(image, [(32, 64)])
    white = (1 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    torch.testing.assert_close(framed[0, :, 0, 0], white)
    assert bool((framed[..., 32:, :] == 0).all())


def test_lite_medsam_keeps_fine_maps_for_the_decoder():
    encoder = LiteMedSAMEncoder(size_px=64, skip_stages=(0, 1))
    with torch.no_grad():
        encoded = encoder.eval()(torch.zeros(1, 3, 64, 64))
    assert encoded.features.shape == (1, 256, 16, 16) and encoder.stride == 4
    for skip, channels, stride in zip(encoded.skips, encoder.skip_channels, encoder.skip_strides, strict=True):
        assert skip.shape == (1, channels, 64 // stride, 64 // stride)
