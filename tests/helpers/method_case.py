"""What tests of detectors are made of: random CLIP towers of real shapes, labelled noise, a run of a few steps."""

from __future__ import annotations

from functools import lru_cache

import open_clip
import torch
from prompt_files import small_clip
from torch import Tensor, nn
from towers import timm_tower

from headclip_med.detectors import LabelledPixels, NormalPixels, Parts
from headclip_med.encoders.adapters import tower_from_open_clip
from headclip_med.encoders.build import BuiltTower

# open_clip architectures with OpenAI's activation, and the input side that tests of them use.
FULL = {"ViT-B/16": "ViT-B-16-quickgelu", "ViT-L/14@336": "ViT-L-14-336-quickgelu"}


@lru_cache(maxsize=1)  # one at a time: the large one takes 1.7 GB
def clip_built(shape: str = "tiny") -> BuiltTower:
    """A random CLIP with its text side: ``tiny`` (32 px, patches of 8, 4 blocks), or one of ``FULL``."""
    if shape == "tiny":
        return small_clip()
    config = open_clip.get_model_config(FULL[shape])
    assert config is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = open_clip.CLIP(
            config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=config.get("quick_gelu", False)
        )
        for name, parameter in clip.named_parameters():
            if name.endswith("bias"):  # zero by default, which would hide a forgotten one
                nn.init.normal_(parameter, std=0.02)
    clip.eval().requires_grad_(False)
    tokenizer = open_clip.get_tokenizer(FULL[shape])
    return BuiltTower(tower_from_open_clip(clip.visual), "open_clip", FULL[shape], "random", "0" * 64, clip, tokenizer)


def vit_built() -> BuiltTower:
    """A random vision-only tower: 32 px, patches of 8, 4 blocks of width 48."""
    return BuiltTower(timm_tower(), "timm", "vit_tiny_random", "random", "0" * 64)


def parts(built: BuiltTower | None = None, tensors: dict[str, Tensor] | None = None, **config: object) -> Parts:
    """Parts on a tiny CLIP unless another tower is given."""
    return Parts(built or clip_built(), config, tensors or {}, ("brain",), ("{} with a tumour",), "test")


def noise(count: int = 2, size: int = 32, seed: int = 1) -> Tensor:
    """Pixels ``(count, 3, size, size)``."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def labelled(count: int = 4, size: int = 32, seed: int = 0) -> LabelledPixels:
    """Noise with a bright square in the first half of the images."""
    pixels, mask = noise(count, size, seed), torch.zeros(count, size, size)
    lesions = count // 2
    mask[:lesions, size // 4 : size // 2, size // 4 : size // 2] = 1
    pixels = pixels + 3 * mask[:, None]
    return LabelledPixels(pixels, mask, torch.ones(count, size, size, dtype=torch.bool), mask.flatten(1).amax(1))


def normals(count: int = 2, size: int = 32, seed: int = 5) -> NormalPixels:
    """Normal slices of noise."""
    return NormalPixels(noise(count, size, seed), torch.ones(count, size, size, dtype=torch.bool))


class FewSteps:
    """An auxiliary run on one labelled batch that remembers its losses."""

    def __init__(self, steps: int = 20, seed: int = 0, size: int = 32) -> None:
        self.steps, self.seed, self.losses = steps, seed, list[float]()
        self._batch = labelled(size=size)

    def begin(self, learned: nn.Module, optimiser: torch.optim.Optimizer) -> int:
        return 0

    def batch(self, step: int) -> LabelledPixels:
        return self._batch

    def done(self, step: int, loss: float) -> None:
        self.losses.append(loss)
