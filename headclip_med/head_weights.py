"""HeadCLIP's learnable head weights (LHW): one factor per attention head, 1 = the frozen tower.

With O_h the output of head h and W_O the output projection, a block's attention update becomes
Δ = concat_h(w_h · O_h) W_O + b_O; the bias is not scaled (HeadCLIP, arXiv 2505.22259; the site and the
branch are inferred, see docs/decisions.md).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headclip_med.encoders.heads import HeadWeights, Site
from headclip_med.encoders.image import first_local_block
from headclip_med.encoders.tower import ImageTower
from headclip_med.errors import ModelError

Parametrisation = Literal["free", "softmax_mean1", "sigmoid2", "softplus"]

Branch = Literal["local", "global", "both"]
LayerChoice = Literal["dual", "all"]

# softplus(x) = 1 at x = ln(e − 1), so that training starts at the frozen tower.
_SOFTPLUS_ONE = 0.5413248546129181


class DynamicHeadWeights(nn.Module):
    """Head weights predicted from the class token: w = 1 + MLP(CLS), zero-initialised in its last layer.

    Args:
        width: of the class token; depth, heads: of the tower; hidden: width of the only hidden layer.
    """

    def __init__(self, width: int, depth: int, heads: int, hidden: int = 64) -> None:
        super().__init__()
        self.depth, self.heads = depth, heads
        self.hidden = nn.Linear(width, hidden)
        self.output = nn.Linear(hidden, depth * heads)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, cls_token: Tensor) -> HeadWeights:
        """``(N, width)`` class tokens → local weights ``(N, depth, heads)``."""
        factors = 1 + self.output(F.gelu(self.hidden(F.layer_norm(cls_token, cls_token.shape[-1:]))))
        return HeadWeights(local=factors.view(-1, self.depth, self.heads), per_image=True)


def parametrise(theta: Tensor, kind: Parametrisation) -> Tensor:
    """Trained parameters ``(L, heads)`` → head weights; every kind starts at 1 from :func:`initial_theta`."""
    if kind == "free":
        return theta
    if kind == "softmax_mean1":
        return theta.shape[-1] * theta.softmax(dim=-1)
    if kind == "sigmoid2":
        return 2 * theta.sigmoid()
    return F.softplus(theta)


def initial_theta(shape: tuple[int, ...], kind: Parametrisation, noise: float = 0.0, seed: int = 0) -> Tensor:
    """Parameters at which all head weights are 1, plus N(0, noise²) when asked."""
    start = {"free": 1.0, "softmax_mean1": 0.0, "sigmoid2": 0.0, "softplus": _SOFTPLUS_ONE}[kind]
    theta = torch.full(shape, start)
    if noise:
        theta = theta + noise * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return theta


def place_head_weights(
    factors: Tensor,
    depth: int,
    *,
    branch: Branch = "local",
    layers: LayerChoice = "dual",
    local_start: int | None = None,
    site: Site = "head_output",
) -> HeadWeights:
    """Factors of the chosen layers → weights for every layer of a tower, 1 where nothing was chosen.

    Args:
        factors: ``(rows, heads)`` or ``(rows, heads, head_dim)``; one row per chosen layer, or one row for all.
        depth: blocks of the tower; layers: ``dual`` are the blocks with a local branch, ``all`` every block.

    Raises:
        ModelError: a number of rows that fits neither.
    """
    chosen = range(first_local_block(depth, local_start) if layers == "dual" else 0, depth)
    if len(factors) not in (1, len(chosen)):
        raise ModelError(f"Head weights must have 1 or {len(chosen)} rows for the layers {layers!r}", len(factors))
    placed = torch.ones((depth, *factors.shape[1:]), dtype=factors.dtype, device=factors.device)
    placed = torch.cat([placed[: chosen.start], factors.expand(len(chosen), *factors.shape[1:])])
    return HeadWeights(
        local=placed if branch in ("local", "both") else None,
        global_=placed if branch in ("global", "both") else None,
        site=site,
    )


def check_head_weights(weights: HeadWeights, tower: ImageTower) -> HeadWeights:
    """Return ``weights`` when their shape fits ``tower``, or raise :class:`ModelError`."""
    want = (tower.depth, tower.heads)
    for name, tensor in (("local", weights.local), ("global", weights.global_)):
        if tensor is None:
            continue
        got = tuple(tensor.shape[1:] if weights.per_image else tensor.shape[:2])
        if tensor.ndim not in (2, 3) or got != want:
            raise ModelError(
                f"{name} head weights must have the shape (layers, heads) = {want} of the tower",
                tuple(tensor.shape),
                "Use a pack that was made for this tower",
            )
    return weights


def fold(weights: HeadWeights, tower: ImageTower) -> dict[int, Tensor]:
    """Copies of the blocks' output projections with the local head weights multiplied in.

    W_O's columns of head h are scaled by w_h: the same result as scaling O_h, at no cost per image. The
    frozen projections are left alone.
    """
    if not weights.foldable or weights.local is None:
        raise ModelError("Head weights must be static factors of the head output to be folded", weights.site)
    folded = {}
    for layer, block in enumerate(tower.blocks):
        factors = weights.local[layer]
        head_dim = block.out_weight.shape[1] // block.heads
        per_column = factors.reshape(-1) if factors.ndim == 2 else factors.repeat_interleave(head_dim)
        out = block.out_weight
        folded[layer] = (out.float() * per_column.to(out.device)).to(out.dtype)
    return folded
