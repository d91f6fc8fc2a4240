"""SAM's prompting part: K objects of several images at once, and where gradients go."""

import pytest
import torch

from prsmed.errors import CheckpointError
from prsmed.models.pretrained import load_strictly
from prsmed.models.sam import SamPrompting

BOXES = torch.tensor([[2.0, 3.0, 20.0, 30.0], [8.0, 8.0, 40.0, 24.0], [0.0, 0.0, 64.0, 64.0]])
OBJ_IMAGE = torch.tensor([1, 0, 1])


@pytest.fixture
def sam() -> SamPrompting:
    torch.manual_seed(0)
    return SamPrompting(frame_px=64, width=32, layers=1, heads=2, mlp_width=64)


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(2, 32, 4, 4, generator=torch.Generator().manual_seed(1))


def test_objects_in_a_batch_are_answered_as_alone(sam, features):
    text = torch.randn(3, 2, 32, generator=torch.Generator().manual_seed(2))
    together, iou = sam(features, boxes_xyxy_px=BOXES, text_embeds=text, obj_image=OBJ_IMAGE)
    assert together.shape == (3, 1, 16, 16) and iou.shape == (3,)
    for k, image in enumerate(OBJ_IMAGE.tolist()):
        alone, _ = sam(
            features[image : image + 1],
            boxes_xyxy_px=BOXES[k : k + 1],
            text_embeds=text[k : k + 1],
            obj_image=torch.tensor([0]),
        )
        torch.testing.assert_close(together[k : k + 1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prompts", [("boxes",), ("text",), ("boxes", "text")])
def test_gradients_reach_prompts_features_and_decoder_but_not_the_prompt_encoder(sam, features, prompts):
    features.requires_grad_()
    boxes = BOXES.clone().requires_grad_() if "boxes" in prompts else None
    text = torch.randn(3, 1, 32, requires_grad=True) if "text" in prompts else None
    masks, iou = sam(features, boxes_xyxy_px=boxes, text_embeds=text, obj_image=OBJ_IMAGE)
    (masks.square().mean() + iou.square().mean()).backward()
    leaves = [features, *(leaf for leaf in (boxes, text) if leaf is not None), *sam.decoder.parameters()]
    assert all(leaf.grad is not None for leaf in leaves)
    assert all(float(leaf.grad.abs().amax()) > 0 for leaf in leaves[: 1 + len(prompts)])
    assert all(parameter.grad is None for parameter in sam.prompts.parameters())


def test_the_map_may_have_any_size(sam):
    masks, _ = sam(torch.randn(1, 32, 6, 6), boxes_xyxy_px=BOXES[:1], obj_image=torch.tensor([0]))
    assert masks.shape == (1, 1, 24, 24)


def test_a_wrong_file_is_refused_by_name():
    module = torch.nn.Linear(2, 3)
    tensors = {"layer.weight": torch.zeros(3, 3), "layer.other": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        load_strictly(module, tensors, source="sam.pth", renames=((r"^layer\.", ""),))
    for part in ("sam.pth", "missing bias", "extra layer.other", "layer.weight is (3, 3), expected (3, 2)"):
        assert part in str(caught.value)
