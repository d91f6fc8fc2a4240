"""SAM's prompt encoder and mask decoder: from features of an image and K prompts to K masks.

Source: Kirillov et al. 2023, section 3 and appendix A. LiteMedSAM, MedSAM, TinySAM and MobileSAM share this part; the
modules are transformers', the files' names segment-anything's.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from transformers import SamConfig, SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder

from prsmed.models.pretrained import Renames, load_strictly

_MLP_NAMES: Renames = (
    (r"(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.2\.", r"\1.proj_out."),
    (r"(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.1\.", r"\1.layers.0."),
)
SAM_NAMES: Renames = (
    (
        r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$",
        "prompts.shared_embedding.positional_embedding",
    ),
    (r"^prompt_encoder\.point_embeddings\.", "prompts.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompts.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompts.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompts.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompts.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompts.mask_embed.conv3."),
    (r"^prompt_encoder\.", "prompts."),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"^mask_decoder\.", "decoder."),
    *_MLP_NAMES,
)


class SamPrompting(nn.Module):
    """Boxes and text embeddings in, masks out. The prompt encoder is frozen, the decoder is trainable.

    Args:
        frame_px: side of the encoder's square frame, in which boxes are given.
        width, layers, heads, mlp_width: of the two-way transformer; the defaults are every published SAM's.
    """

    def __init__(
        self, *, frame_px: int, width: int = 256, layers: int = 2, heads: int = 8, mlp_width: int = 2048
    ) -> None:
        super().__init__()
        self.frame_px, self.width = frame_px, width
        decoder = SamMaskDecoderConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            mlp_dim=mlp_width,
            layer_norm_eps=1e-5,  # transformers' 1e-6 is not what the published weights were trained with
        )
        config = SamConfig(
            # hidden_size 2 only sets the scale of untrained position codes to segment-anything's 1.
            vision_config=SamVisionConfig(hidden_size=2, num_pos_feats=width // 2),
            prompt_encoder_config=SamPromptEncoderConfig(hidden_size=width, image_size=frame_px),
            mask_decoder_config=decoder,
        )
        decoder._attn_implementation = "eager"  # the whole config has just reset it, and unset it warns at every start
        self.prompts = SamPromptEncoder(config).requires_grad_(False)
        self.decoder = SamMaskDecoder(decoder)

    def load_segment_anything(self, tensors: Mapping[str, torch.Tensor], *, source: str) -> None:
        """Load a whole segment-anything state dict; its image encoder is left to the encoders.

        Raises:
            CheckpointError: a tensor of the prompt encoder or mask decoder is missing, extra or of another shape.
        """
        load_strictly(self, tensors, source=source, renames=SAM_NAMES, unused=("image_encoder.",))

    def forward(
        self,
        features: torch.Tensor,
        *,
        boxes_xyxy_px: torch.Tensor | None = None,
        text_embeds: torch.Tensor | None = None,
        coarse_embeds: torch.Tensor | None = None,
        obj_image: torch.Tensor,
        multimask: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """K objects in one pass.

        Args:
            features: (B, width, h, w) of the images.
            boxes_xyxy_px: (K, 4) half-open boxes in pixels of the frame, or None.
            text_embeds: (K, n, width) prompt tokens that follow the box's two, or None.
            coarse_embeds: (K, width, h, w) of coarse masks, beside the code for "no mask", or None.
            obj_image: (K,) which image each object belongs to.
            multimask: three masks for an ambiguous prompt instead of the one.

        Returns:
            mask logits (K, 1 or 3, 4h, 4w) on the frame, and the decoder's guess of their IoU (K, 1 or 3), squeezed to
            (K,) for one mask.
        """
        assert boxes_xyxy_px is not None or text_embeds is not None, "an object needs a box or a text prompt"
        tokens = []
        if boxes_xyxy_px is not None:
            tokens.append(self.embed_boxes(boxes_xyxy_px))
        if text_embeds is not None:
            tokens.append(text_embeds)
        maps, dense = features[obj_image], self.prompts.no_mask_embed.weight[:, :, None, None]
        masks, iou = self.decoder(
            image_embeddings=maps,
            image_positional_embeddings=self.positions(maps).expand(len(maps), -1, -1, -1),
            sparse_prompt_embeddings=torch.cat(tokens, dim=1)[:, None],
            dense_prompt_embeddings=dense if coarse_embeds is None else dense + coarse_embeds,
            multimask_output=multimask,
        )
        return masks[:, 0], iou[:, 0] if multimask else iou[:, 0, 0]

    def embed_boxes(self, boxes_xyxy_px: torch.Tensor) -> torch.Tensor:
        """Half-open boxes (K, 4) as two corner tokens each, (K, 2, width).

        segment-anything counts a box from its first to its last pixel, both inside, and encodes the pixels' centres.
        """
        with full_precision(boxes_xyxy_px):
            inside = boxes_xyxy_px - boxes_xyxy_px.new_tensor([0.0, 0.0, 1.0, 1.0])
            sparse, _ = self.prompts(None, None, inside[:, None], None)
        return sparse[:, 0]

    def positions(self, maps: torch.Tensor) -> torch.Tensor:
        """Position codes (1, width, h, w) of the cells of a feature map."""
        rows, columns = ((torch.arange(side, device=maps.device) + 0.5) / side for side in maps.shape[-2:])
        grid_yx = torch.meshgrid(rows, columns, indexing="ij")
        with full_precision(maps):
            codes = self.prompts.shared_embedding(torch.stack([grid_yx[1], grid_yx[0]], dim=-1)[None])
        return codes.permute(0, 3, 1, 2).to(maps.dtype)


def full_precision(tensor: torch.Tensor) -> AbstractContextManager:
    """Autocast off, for places: a coordinate in bf16 is off by pixels. Tensors of shapes alone know no autocast."""
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)
