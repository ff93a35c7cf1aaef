"""Small ViTs of our own, described by numbers and built by timm."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn

from headclip_med.base.errors import ModelError

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


def convolutional_stem(patch: int, width: int) -> nn.Sequential:
    """3×3 convolutions of stride 2 down to one token a patch, then a 1×1 one.

    Small ViTs learn faster from them than from one large convolution (Xiao et al., Early Convolutions Help Transformers
    See Better, NeurIPS 2021, arXiv 2106.14881).

    Raises:
        ModelError: a patch size that is no power of two, or a width that cannot be halved as often.
    """
    halvings = patch.bit_length() - 1
    if patch != 2**halvings or patch < 2 or width % 2 ** (halvings - 1):
        raise ModelError(
            "A tower with a stem must have a patch size that is a power of two, and a width to match",
            f"patches of {patch}, width {width}",
        )
    channels = [3, *(width // 2**left for left in reversed(range(halvings)))]
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        convolution = nn.Conv2d(before, after, 3, stride=2, padding=1)
        nn.init.kaiming_normal_(convolution.weight)
        nn.init.zeros_(convolution.bias)
        layers += [convolution, nn.GELU()]
    return nn.Sequential(*layers, nn.Conv2d(width, width, 1))


@dataclass(frozen=True)
class TimmVitSpec:
    """Arguments of timm's ``VisionTransformer``; sizes in pixels, ``embed_dim`` divisible by ``num_heads``.

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
    """A randomly initialised ViT without a classifier."""
    from timm.models.vision_transformer import VisionTransformer

    arguments = asdict(spec)
    stem = arguments.pop("stem")
    model = VisionTransformer(**arguments, num_classes=0, global_pool="token")
    if stem:
        model.patch_embed.proj = convolutional_stem(spec.patch_size, spec.embed_dim)
    return model
