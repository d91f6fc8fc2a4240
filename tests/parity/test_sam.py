"""SAM's prompt encoder and mask decoder against segment-anything's and LiteMedSAM's own numbers."""

import pytest
import torch

from prsmed.errors import CheckpointError
from prsmed.models.bases import base_file
from prsmed.models.encoders import LiteMedSAMEncoder
from prsmed.models.pretrained import read_torch_file
from prsmed.models.sam import SamPrompting
from tests.parity.rule import difference, listed, numbers, rule_image, rule_weights

FIRST = torch.tensor([0])
# The numbers' boxes name first and last pixels; ours are half-open.
TINY_BOX = torch.tensor([[10.0, 12.0, 51.0, 45.0]])
LITE_BOX = torch.tensor([[50.0, 60.0, 181.0, 201.0]])


@pytest.mark.parametrize("window", ["window4", "window3"])
def test_masks_of_the_tiny_sam(window):
    expected = numbers("sam_tiny")
    sam = SamPrompting(frame_px=64)
    sam.load_segment_anything(rule_weights(listed(f"sam_tiny_{window}")), source="rule")
    features = torch.from_numpy(expected[f"{window}.image_embedding"])
    assert difference(sam.embed_boxes(TINY_BOX), expected, f"{window}.sparse_prompt_embeddings") < 1e-5
    assert difference(sam.positions(features), expected, f"{window}.dense_position_encoding") < 1e-5
    with torch.no_grad():
        single, iou_single = sam(features, boxes_xyxy_px=TINY_BOX, obj_image=FIRST)
        multi, iou_multi = sam(features, boxes_xyxy_px=TINY_BOX, obj_image=FIRST, multimask=True)
    assert difference(single, expected, f"{window}.low_res_masks_single") < 1e-5
    assert difference(multi, expected, f"{window}.low_res_masks_multi") < 1e-5
    assert difference(iou_single[:, None], expected, f"{window}.iou_single") < 1e-5
    assert difference(iou_multi, expected, f"{window}.iou_multi") < 1e-5


def test_masks_of_the_published_lite_medsam():
    expected = numbers("lite_medsam")
    encoder, sam = _published_lite_medsam()
    with torch.no_grad():
        features = encoder(rule_image(256)).features
        single, iou_single = sam(features, boxes_xyxy_px=LITE_BOX, obj_image=FIRST)
        multi, iou_multi = sam(features, boxes_xyxy_px=LITE_BOX, obj_image=FIRST, multimask=True)
    assert difference(features, expected, "real.output") < 1e-4
    assert difference(sam.embed_boxes(LITE_BOX), expected, "real.box.sparse_prompt_embeddings") < 1e-5
    assert difference(sam.positions(features), expected, "real.box.dense_position_encoding") < 1e-5
    assert difference(single, expected, "real.box.low_res_logits_single") < 1e-4
    assert difference(multi, expected, "real.box.low_res_logits_multi") < 1e-4
    assert difference(iou_single[:, None], expected, "real.box.iou_single") < 1e-5
    assert difference(iou_multi, expected, "real.box.iou_multi") < 1e-5


def _published_lite_medsam() -> tuple[LiteMedSAMEncoder, SamPrompting]:
    try:
        tensors = read_torch_file(base_file("lite_medsam"))
    except CheckpointError as error:
        pytest.skip(f"the published weights are not on this machine: {error}")
    encoder, sam = LiteMedSAMEncoder().eval(), SamPrompting(frame_px=256)
    encoder.load_segment_anything(tensors, source="lite_medsam")
    sam.load_segment_anything(tensors, source="lite_medsam")
    return encoder, sam
