"""How much work a slice is, by formulas alone: FLOPs and bytes of a tower with the local V-V path.

T = tokens (class and register tokens, then P patches), w = width, m = weights of a block's MLP matrices, D = length of
a projected feature, S = side of the input, p = side of a patch. A FLOP is a multiplication or an addition, so that a
product of (a, b) and (b, c) has 2abc. Only matrix products are counted; softmax, norms, activations, biases, the
comparison with the class features and the map's interpolation are not.

- patch embedding 2 · P · 3p² · w; a stem of convolutions 2 · (S/s)² · k² · c · c' for each, s being its stride so far
- a block's original path: qkv 2 · T · w · 3w, output projection 2 · T · w², MLP 2 · T · m, attention 4 · T² · w
- a block's local path: its own output projection 2 · P · w² (head weights are folded into it, so that they cost
  nothing), V-V attention 4 · P · T · w: queries are the patches, keys and values all tokens
- projections 2 · w · D for each patch of each tap, and for the class token; none where the tower has no projection

``useful`` is the fewest FLOPs that give the map and, where it is wanted, the global feature, row by row and without
rearranging any product: the symmetry of V Vᵀ is not used, nor are key or value projections moved behind the attention
of the last class token. ``shared`` is one pass of both paths through every block and all rows; ``skipped`` says what
lies between the two. Of the ways in ``plain_way.py``, ``released`` is one pass of all tokens that ends after the last
block that is needed, and ``plain`` is two: for the map one up to the last tap with a local path of all tokens that
projects its own values, and for the global feature a second one through every block.

Bytes are the fewest that must move if nothing else left the caches: every weight matrix that is used, once a batch, in
its type (patch embedding, positions and final projection are float32; a local output projection counts separately where
head weights are folded into a copy); for each slice the pixels, the map, and the residual streams of both paths, in and
out once a block, in float32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from headclip_med.detectors import HeadCLIP
    from headclip_med.encoders.tower import ImageTower

Flops = Counter[str]  # by part: embedding, qkv, output, mlp, attention, local_output, local_attention, projection

_FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Work:
    """What is asked of a tower for one slice.

    Attributes:
        width, depth, patch_size, output_dim: of the tower; image_size: side of the input in pixels.
        prefix: class and register tokens. mlp_weights: numbers in the matrices of one block's MLP.
        projected: whether features are multiplied with a matrix ``(width, output_dim)``.
        local_start: first block with a local path; taps: blocks whose patches are projected, both 0-based.
        wants_global: also the class token's feature. folded: local output projections are copies of their own.
        stem: of every convolution of a patch embedding with several: side, stride so far, channels in and out.
    """

    width: int
    depth: int
    patch_size: int
    image_size: int
    prefix: int
    mlp_weights: int
    output_dim: int
    projected: bool
    local_start: int
    taps: tuple[int, ...]
    wants_global: bool
    folded: bool
    stem: tuple[tuple[int, int, int, int], ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.local_start <= max(self.taps) < self.depth:
            raise ValueError("The last tap must lie within the tower, on its local path")

    @property
    def patches(self) -> int:
        """P."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens(self) -> int:
        """T."""
        return self.prefix + self.patches

    @property
    def convolutions(self) -> tuple[tuple[int, int, int, int], ...]:
        """Side, stride so far, channels in and out of every convolution of the patch embedding."""
        return self.stem or ((self.patch_size, self.patch_size, 3, self.width),)

    @property
    def last(self) -> int:
        """The last block that must be run."""
        return self.depth - 1 if self.wants_global else max(self.taps)


def work_of(detector: HeadCLIP) -> Work:
    """The work of a detector whose local path is V-V and whose tower pools its class token.

    Raises:
        ValueError: another local path or pooling.
    """
    from headclip_med.encoders.image import first_local_block

    tower, config = detector.tower, detector.config
    if config.local_attention != "vv" or tower.pool != "token":
        raise ValueError("Only V-V attention and towers that pool the class token are counted")
    return Work(
        width=tower.width,
        depth=tower.depth,
        patch_size=tower.patch_size,
        image_size=detector.image_size,
        prefix=tower.prefix,
        mlp_weights=sum(p.numel() for p in tower.blocks[0].mlp.parameters() if p.ndim == 2),
        output_dim=tower.output_dim,
        projected=tower.projection is not None,
        local_start=first_local_block(tower.depth, config.local_start),
        taps=detector.layers,
        wants_global=detector.wants_image_score,
        folded=detector.folded is not None,
        stem=_stem(tower),
    )


def _stem(tower: ImageTower) -> tuple[tuple[int, int, int, int], ...]:
    found, stride = [], 1
    for layer in tower.patch_projection.children():
        if isinstance(layer, nn.Conv2d):
            stride *= layer.stride[0]
            found.append((layer.kernel_size[0], stride, layer.in_channels, layer.out_channels))
    return tuple(found)


def total(parts: Iterable[Flops]) -> Flops:
    """The sum, part by part."""
    return sum(parts, Flops())


def useful(work: Work) -> Flops:
    """Fewest FLOPs of one slice."""
    blocks = (original_path(work) for _ in range(work.last))
    local = (local_path(work, work.patches) for _ in range(work.local_start, max(work.taps) + 1))
    return total([*_ends(work), *blocks, last_block(work), *local])


def shared(work: Work) -> Flops:
    """FLOPs of one slice in one pass of both paths that skips nothing."""
    blocks = (original_path(work) for _ in range(work.depth))
    local = (local_path(work, work.tokens) for _ in range(work.local_start, work.depth))
    return total([*_ends(work), *blocks, *local])


def skipped(work: Work) -> dict[str, int]:
    """FLOPs of ``shared`` that change no output, by reason; what is left is ``useful``."""
    full, local = original_path(work), local_path(work, work.tokens)
    last_tap = max(work.taps)
    spared = (local_path(work, work.prefix) for _ in range(work.local_start, last_tap + 1))
    local_after = (local for _ in range(last_tap + 1, work.depth))
    original_after = (full for _ in range(work.last + 1, work.depth))
    return {
        "class and register rows of the local path": total(spared).total(),
        "blocks after the last tap": total([*local_after, *original_after]).total(),
        "dead part of the last block": full.total() - last_block(work).total(),
    }


def plain(work: Work) -> Flops:
    """FLOPs of one slice in the plain way: two passes."""
    full, last_tap = original_path(work), max(work.taps)
    own_values = Flops(qkv=2 * work.tokens * work.width**2)
    local = (local_path(work, work.tokens) + own_values for _ in range(work.local_start, last_tap + 1))
    second = [_embedding(work), *(full for _ in range(work.depth))] if work.wants_global else []
    return total([*_ends(work), *(full for _ in range(last_tap + 1)), *local, *second])


def released(work: Work) -> Flops:
    """FLOPs of one slice as the released code takes them: one pass."""
    blocks = (original_path(work) for _ in range(work.last + 1))
    local = (local_path(work, work.tokens) for _ in range(work.local_start, max(work.taps) + 1))
    return total([*_ends(work), *blocks, *local])


def original_path(work: Work) -> Flops:
    """One block of the original path, every row of it."""
    t, w = work.tokens, work.width
    return Flops(qkv=2 * t * w * 3 * w, output=2 * t * w * w, mlp=2 * t * work.mlp_weights, attention=4 * t * t * w)


def local_path(work: Work, rows: int) -> Flops:
    """One block of the local path for ``rows`` queries, with the values of the original path."""
    return Flops(
        local_output=2 * rows * work.width**2,
        local_attention=4 * rows * work.tokens * work.width,
    )


def last_block(work: Work) -> Flops:
    """The original path of the last block that is run: keys and values of all tokens, and the rest of the class token.

    Without a global feature only the values that the local path needs.
    """
    t, w = work.tokens, work.width
    values = 2 * t * w * w
    if not work.wants_global:
        return Flops(qkv=values)
    query = output = 2 * w * w
    return Flops(qkv=query + 2 * values, output=output, mlp=2 * work.mlp_weights, attention=4 * t * w)


def fewest_bytes(work: Work, batch: int, weight_bytes: int) -> int:
    """Bytes that must move for a batch of slices, with block matrices of ``weight_bytes`` bytes a number."""
    t, w = work.tokens, work.width
    local_blocks = max(work.taps) + 1 - work.local_start
    block = 4 * w * w + work.mlp_weights
    values, output = w * w, w * w
    matrices = work.last * block + (block if work.wants_global else values)
    if work.folded:
        matrices += local_blocks * output
    elif not work.wants_global:
        matrices += output
    ends = (
        sum(side**2 * a * b for side, _, a, b in work.convolutions)
        + t * w
        + (w * work.output_dim if work.projected else 0)
    )
    streams = (2 * work.last + 1) * t * w + (w if work.wants_global else 0) + 2 * local_blocks * work.patches * w
    images = (3 + 1) * work.image_size**2
    return weight_bytes * matrices + _FLOAT32 * (ends + batch * (streams + images))


def counts(work: Work) -> dict[str, object]:
    """Every count of one slice as plain JSON values."""
    return {
        "useful": useful(work).total(),
        "plain": plain(work).total(),
        "released": released(work).total(),
        "shared": shared(work).total(),
        "skipped": skipped(work),
        "useful_by_part": dict(useful(work)),
        "plain_by_part": dict(plain(work)),
    }


def _embedding(work: Work) -> Flops:
    size = work.image_size
    return Flops(embedding=sum(2 * (size // s) ** 2 * side**2 * a * b for side, s, a, b in work.convolutions))


def _ends(work: Work) -> list[Flops]:
    """What lies before and after the blocks."""
    rows = len(work.taps) * work.patches + work.wants_global
    return [_embedding(work), Flops(projection=2 * rows * work.width * work.output_dim if work.projected else 0)]
