"""open_clip and timm vision transformers → :class:`ImageTower`, without copying a parameter."""

from __future__ import annotations

from typing import Any

import open_clip
import timm
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import nn

from headclip_med.base.errors import ModelError
from headclip_med.encoders.tower import Block, ImageTower

_CHOOSE = "Choose a plain ViT, such as ViT-L-14-336 or vit_small_patch14_dinov2"


def tower_from_open_clip(visual: nn.Module, mean: Any = None, std: Any = None) -> ImageTower:
    """View the image side of an open_clip model as a tower.

    Args:
        visual: The model's ``clip.visual``.
        mean, std: Of the pixels that its weights expect, per channel in [0, 1], OpenAI's by default.

    Returns:
        A tower over the model's own parameters.

    Raises:
        ModelError: not a plain ViT (ResNet, ConvNeXt, timm trunk, attentional pooling, modified blocks).
    """
    if not isinstance(visual, VisionTransformer):
        raise ModelError("The CLIP image tower must be a ViT of open_clip", type(visual).__name__, _CHOOSE)
    blocks: list[Any] = list(visual.transformer.resblocks)
    odd = next((b for b in blocks if type(b) is not ResidualAttentionBlock), None)
    if odd is not None or visual.attn_pool is not None or visual.pool_type not in ("tok", "avg"):
        what = type(odd).__name__ if odd is not None else "attentional pooling"
        raise ModelError("The CLIP image tower must have standard attention blocks and pooling", what, _CHOOSE)

    return ImageTower(
        visual,
        blocks=[_open_clip_block(block) for block in blocks],
        patch_projection=visual.conv1,
        prefix_tokens=[visual.class_embedding],
        positions=visual.positional_embedding,
        positions_cover_prefix=True,
        norm_pre=visual.ln_pre,
        norm_post=visual.ln_post,
        projection=visual.proj,
        pool="token" if visual.pool_type == "tok" else "average",
        norm_after_pool=visual.final_ln_after_pool,
        width=visual.class_embedding.shape[0],
        patch_size=visual.patch_size[0],
        native_size=visual.image_size[0],
        mean=mean or open_clip.OPENAI_DATASET_MEAN,
        std=std or open_clip.OPENAI_DATASET_STD,
    )


def _open_clip_block(block: Any) -> Block:
    return Block(
        heads=block.attn.num_heads,
        norm1=block.ln_1,
        qkv_weight=block.attn.in_proj_weight,
        qkv_bias=block.attn.in_proj_bias,
        query_norm=nn.Identity(),
        key_norm=nn.Identity(),
        out_weight=block.attn.out_proj.weight,
        out_bias=block.attn.out_proj.bias,
        scale1=block.ls_1,
        norm2=block.ln_2,
        mlp=block.mlp,
        scale2=block.ls_2,
    )


def tower_from_timm(model: nn.Module) -> ImageTower:
    """View a timm ``VisionTransformer`` as a tower.

    Args:
        model: DINO, DINOv2 with or without registers, or a supervised ViT.

    Returns:
        A tower over the model's own parameters.

    Raises:
        ModelError: another architecture, or a ViT variant whose attention is not the standard one.
    """
    if type(model) is not TimmVisionTransformer:  # a subclass, such as a distilled DeiT, has tokens of its own
        raise ModelError("The vision tower must be a plain timm VisionTransformer", type(model).__name__, _CHOOSE)
    if not all(_is_plain(b) for b in model.blocks) or model.cls_token is None or model.pos_embed is None:
        raise ModelError(
            "The ViT must have standard attention, a class token and positions", "another variant", _CHOOSE
        )

    data = timm.data.resolve_data_config(model=model)
    return ImageTower(
        model,
        blocks=[_timm_block(block) for block in model.blocks],
        patch_projection=model.patch_embed.proj,
        prefix_tokens=[t for t in (model.cls_token, model.reg_token) if t is not None],
        positions=model.pos_embed,
        positions_cover_prefix=not model.no_embed_class,
        norm_pre=model.norm_pre,
        norm_post=model.norm,
        projection=None,
        pool="token",
        width=model.embed_dim,
        patch_size=model.patch_embed.patch_size[0],
        native_size=model.patch_embed.grid_size[0] * model.patch_embed.patch_size[0],
        mean=data["mean"],
        std=data["std"],
    )


def _is_plain(block: Any) -> bool:
    """A pre-norm block with the standard attention."""
    if type(block) is not TimmBlock or type(block.attn) is not Attention:
        return False
    return block.attn.gate is None and isinstance(block.attn.norm, nn.Identity)


def _timm_block(block: Any) -> Block:
    return Block(
        heads=block.attn.num_heads,
        norm1=block.norm1,
        qkv_weight=block.attn.qkv.weight,
        qkv_bias=block.attn.qkv.bias,
        query_norm=block.attn.q_norm,
        key_norm=block.attn.k_norm,
        out_weight=block.attn.proj.weight,
        out_bias=block.attn.proj.bias,
        scale1=block.ls1,
        norm2=block.norm2,
        mlp=block.mlp,
        scale2=block.ls2,
    )
