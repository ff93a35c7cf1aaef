"""The one place where attention is computed, so that the kernel can be chosen by hardware."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Kernel = Literal["auto", "fused", "matmul"]
# Logits of as many heads at once as this many bytes hold: a share of a CPU's last cache, by measurement. Fewer calls
# gain up to 40 % on short sequences; logits that leave the cache lose more than that.
_LOGIT_BYTES = 6 * 2**20
LocalAttention = Literal["vv", "qk", "qq+kk+vv", "none"]


def choose_kernel(device: torch.device, dtype: torch.dtype) -> Literal["fused", "matmul"]:
    """Choose the attention kernel by hardware.

    Args:
        device: Where attention is computed.
        dtype: Of the queries, keys and values.

    Returns:
        ``matmul`` for 16-bit types on a CPU, where the fused kernel is far below the matrix units, else ``fused``.
    """
    return "matmul" if device.type == "cpu" and dtype in (torch.bfloat16, torch.float16) else "fused"


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, temperature: Tensor | None = None, kernel: Kernel = "auto"
) -> Tensor:
    """Compute softmax(q kᵀ / √d) v for every head.

    Args:
        query: ``(N, heads, Tq, d)``, maybe no row.
        key, value: ``(N, heads, T, d)``.
        temperature: Factors of the logits, broadcastable to ``(N, heads, 1, 1)``, where 1 leaves them as they are.
        kernel: ``fused`` is PyTorch's scaled_dot_product_attention, ``matmul`` plain products per head.

    Returns:
        ``(N, heads, Tq, d)``.
    """
    if query.shape[-2] == 0:
        return query
    if temperature is not None:
        query = query * temperature.to(query.dtype)
    if kernel == "auto":
        kernel = choose_kernel(query.device, query.dtype)
    if kernel == "fused":
        return F.scaled_dot_product_attention(query, key, value)
    return _matmul_attention(query, key, value).view_as(query)


def logit_bytes(tokens: int, heads: int, item: int) -> int:
    """Estimate the memory of the logits that exist at once where heads are multiplied in groups.

    Args:
        tokens: Tokens of an image.
        heads: Heads of a block.
        item: Bytes of a number.

    Returns:
        Bytes for one image.
    """
    return min(heads, _heads_at_once(tokens, tokens, item)) * tokens * tokens * item


def _heads_at_once(rows: int, columns: int, item: int) -> int:
    return max(1, _LOGIT_BYTES // (rows * columns * item))


def _matmul_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """A few heads at a time, so that their logits stay in the cache.

    The mean key is taken away first: it adds the same to all logits of a row, which softmax does not see, but logits
    that are large for its sake lose their digits in 16 bits. That was more than half of a map's error.
    """
    key = key - key.mean(dim=-2, keepdim=True, dtype=torch.float32).to(key.dtype)
    query, key, value = ((t.flatten(0, 1)) for t in (query * query.shape[-1] ** -0.5, key, value))
    heads = _heads_at_once(query.shape[-2], key.shape[-2], query.element_size())
    if heads == 1:  # plain products of two matrices are faster than batches of one
        done = [(q @ k.T).softmax(dim=-1) @ v for q, k, v in zip(query, key, value, strict=True)]
        return torch.stack(done)
    groups = zip(query.split(heads), key.split(heads), value.split(heads), strict=True)
    return torch.cat([(q @ k.transpose(1, 2)).softmax(dim=-1) @ v for q, k, v in groups])


def attend_locally(
    kind: LocalAttention,
    qkv: tuple[Tensor, Tensor, Tensor],
    ordinary: Tensor,
    *,
    prefix: int,
    temperature: Tensor | None = None,
    kernel: Kernel = "auto",
) -> Tensor:
    """Compute the local branch's attention output for the patch rows only.

    Args:
        kind: ``vv`` (AnomalyCLIP's DPAM), ``qq+kk+vv`` (Crane's sum of three) or ``qk`` (the ordinary attention).
        qkv: Each ``(N, heads, T, d)`` of the original path.
        ordinary: The ordinary attention's output, reused by ``qk``.
        prefix: Number of class and register tokens in front, which stay as keys and values.
        temperature: Factors of the logits, broadcastable to ``(N, heads, 1, 1)``.
        kernel: As of :func:`attend`.

    Returns:
        ``(N, heads, P, d)``.
    """
    query, key, value = qkv
    if kind == "qk" and temperature is None:
        return ordinary[:, :, prefix:]
    pairs = {"vv": [value], "qk": [], "qq+kk+vv": [query, key, value]}[kind]
    if kind == "qk":
        return attend(query[:, :, prefix:], key, value, temperature=temperature, kernel=kernel)
    outputs = [attend(t[:, :, prefix:], t, value, temperature=temperature, kernel=kernel) for t in pairs]
    return torch.stack(outputs).sum(dim=0) if len(outputs) > 1 else outputs[0]
