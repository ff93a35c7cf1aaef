"""Small ViTs of our own, described by numbers and built by timm."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


@dataclass(frozen=True)
class TimmVitSpec:
    """Arguments of timm's ``VisionTransformer``, sizes in pixels, ``embed_dim`` divisible by ``num_heads``.

    ``stem``: patches become tokens by a few convolutions instead of one.
    """

    img_size: int
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    reg_tokens: int = 0
    stem: bool = False


def build_timm_vit(spec: TimmVitSpec) -> VisionTransformer:
    """Build a randomly initialised ViT without a classifier.

    Args:
        spec: Its sizes.

    Returns:
        A module of timm.
    """
    from timm.models.vision_transformer import VisionTransformer

    arguments = asdict(spec)
    stem = arguments.pop("stem")
    model = VisionTransformer(**arguments, num_classes=0, global_pool="token")
    if stem:
        from headclip_med.encoders.stem import convolutional_stem

        model.patch_embed.proj = convolutional_stem(spec.patch_size, spec.embed_dim)
    return model
