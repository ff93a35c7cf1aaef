"""Small and full-size random towers for tests. No weights are downloaded."""

from __future__ import annotations

import timm
import torch
from open_clip.transformer import QuickGELU, VisionTransformer

from headclip_med.encoders.adapters import tower_from_open_clip, tower_from_timm
from headclip_med.encoders.tower import ImageTower

SHAPES = {
    "ViT-B/16": {
        "image_size": 224,
        "patch_size": 16,
        "width": 768,
        "layers": 12,
        "heads": 12,
        "output_dim": 512,
    },
    "ViT-L/14@336": {
        "image_size": 336,
        "patch_size": 14,
        "width": 1024,
        "layers": 24,
        "heads": 16,
        "output_dim": 768,
    },
    "tiny": {"image_size": 32, "patch_size": 8, "width": 48, "layers": 4, "heads": 4, "output_dim": 24},
}


def clip_visual(shape: str, seed: int = 0, **options: object) -> VisionTransformer:
    """A random open_clip image tower of a named shape, with OpenAI's activation."""
    torch.manual_seed(seed)
    visual = VisionTransformer(mlp_ratio=4.0, act_layer=QuickGELU, **SHAPES[shape], **options)
    for name, parameter in visual.named_parameters():
        if name.endswith("bias"):  # zero by default, which would hide a forgotten or a scaled bias
            torch.nn.init.normal_(parameter, std=0.02)
    return visual.eval()


def clip_tower(shape: str = "tiny", seed: int = 0, **options: object) -> ImageTower:
    return tower_from_open_clip(clip_visual(shape, seed, **options))


def timm_model(seed: int = 0, **options: object) -> torch.nn.Module:
    """A random small DINOv2-like ViT: layer scale, optional registers."""
    torch.manual_seed(seed)
    settings = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 48,
        "depth": 4,
        "num_heads": 4,
        "init_values": 0.5,
    }
    model = timm.models.vision_transformer.VisionTransformer(**{**settings, **options}, num_classes=0)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


def timm_tower(seed: int = 0, **options: object) -> ImageTower:
    return tower_from_timm(timm_model(seed, **options))
