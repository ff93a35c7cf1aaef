"""MVFA's few-shot memory (arXiv 2403.12570): read-outs of normal images, and how far others are from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import cos, pi, sin

import torch
from torch import Tensor
from torch.nn import functional as F

from headclip_med.base.errors import ModelError

# Views of a normal image besides itself: turned by these angles, and shifted by a twentieth of the side (a tenth in
# coordinates from -1 to 1) along both diagonals; its two mirror images come on top.
_ANGLES = (-pi / 8, -pi / 16, pi / 16, pi / 8)
_SHIFTS = ((0.1, 0.1), (-0.1, 0.1), (-0.1, -0.1), (0.1, -0.1))

# Views that go through the tower at once.
_AT_ONCE = 4

# Of the names of its tensors.
_PREFIX = "bank."


def views(image: Tensor) -> Tensor:
    """Make the ten published views of an image, mirrored in where they look outside.

    Args:
        image: ``(3, S, S)``.

    Returns:
        ``(11, 3, S, S)``, the image itself first.
    """
    turned = [[[cos(a), -sin(a), 0.0], [sin(a), cos(a), 0.0]] for a in _ANGLES]
    shifted = [[[1.0, 0.0, x], [0.0, 1.0, y]] for x, y in _SHIFTS]
    affine = torch.tensor([*turned, *shifted]).to(image)
    copies = image.expand(len(affine), -1, -1, -1)
    places = F.affine_grid(affine, list(copies.shape), align_corners=False)
    moved = F.grid_sample(copies, places, padding_mode="reflection", align_corners=False)
    return torch.cat([image[None], moved, image.flip(-1)[None], image.flip(-2)[None]])


def build_read_out_bank(read_outs: Callable[[Tensor], Tensor], images: Tensor, size: int, seed: int) -> Tensor:
    """Remember read-outs of normal images' patches, drawn from all views of all images alike.

    Args:
        read_outs: Pixels ``(N, 3, S, S)`` → ``(heads, taps, N, P, B)``.
        images: ``(K, 3, S, S)``, normalised.
        size: How many patches at most.
        seed: Of the draw.

    Returns:
        ``(heads, taps, M, B)``: the same M patches at every tap of both heads.
    """
    draw, kept = torch.Generator().manual_seed(seed), []
    chosen = torch.empty(0, dtype=torch.long)
    for number, image in enumerate(images):
        parts = [read_outs(part) for part in views(image).split(_AT_ONCE)]
        found = torch.cat(parts, dim=2).flatten(2, 3)
        rows = int(found.shape[2])
        if number == 0:
            chosen = torch.randperm(rows * len(images), generator=draw)[:size].sort().values
        own = chosen[(chosen >= number * rows) & (chosen < (number + 1) * rows)] - number * rows
        kept.append(found[:, :, own.to(found.device)])
    return torch.cat(kept, dim=2)


def distances(read_outs: Tensor, bank: Tensor) -> Tensor:
    """Compute 1 − the largest cosine with any row of the bank.

    An image at a time, so that not all products exist at once.

    Args:
        read_outs: ``(taps, N, P, B)`` L2-normalised.
        bank: ``(taps, M, B)`` L2-normalised.

    Returns:
        ``(taps, N, P)`` in [0, 2].
    """
    return torch.stack(
        [
            torch.stack([1 - (image @ rows.T).amax(dim=-1) for image in images])
            for images, rows in zip(read_outs, bank, strict=True)
        ]
    )


def named_bank(heads: Sequence[str], bank: Tensor) -> dict[str, Tensor]:
    """Name the memory's tensors to keep them.

    Args:
        heads: Names of the heads.
        bank: ``(heads, taps, M, B)``.

    Returns:
        ``(taps, M, B)`` by ``bank.HEAD``, on the CPU.
    """
    return {f"{_PREFIX}{head}": each.cpu().contiguous() for head, each in zip(heads, bank, strict=True)}


def split_bank(
    tensors: Mapping[str, Tensor], heads: Sequence[str], taps: int, length: int, whose: str
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Split what was learned from the memory, the tensors ``bank.HEAD``.

    Args:
        tensors: By name.
        heads: Names of the heads.
        taps: Number of taps.
        length: Of a read-out, B.
        whose: What to call the model in a message.

    Returns:
        What was learned, and the memory ``(heads, taps, M, B)``, if there is one.

    Raises:
        ModelError: a memory without adapters, for other taps or another bottleneck, or not of finite numbers.
    """
    learned = {name: value for name, value in tensors.items() if not name.startswith(_PREFIX)}
    banks = {name: value for name, value in tensors.items() if name.startswith(_PREFIX)}
    if not banks:
        return learned, None
    shapes = {tuple(map(int, value.shape)) for value in banks.values()}
    rows = max(shape[1] if len(shape) == 3 else 0 for shape in shapes)
    names = {f"{_PREFIX}{head}" for head in heads}
    if not learned or set(banks) != names or shapes != {(taps, rows, length)} or not rows:
        raise ModelError(
            f"The memory of {whose} must be {' and '.join(sorted(names))}, beside its adapters",
            {name: tuple(value.shape) for name, value in banks.items()},
            f"Both must have the shape ({taps}, patches, {length})",
        )
    if not all(bool(value.isfinite().all()) for value in banks.values()):
        raise ModelError(f"The memory of {whose} must hold finite numbers", "NaN or infinity", "Make it again")
    return learned, torch.stack([banks[f"{_PREFIX}{head}"].float() for head in heads])
