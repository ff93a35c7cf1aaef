"""How far a feature is from the nearest of many."""

from __future__ import annotations

import torch
from torch import Tensor

# References that are compared with at once, so that memory does not grow with the normal images.
_REFERENCES = 4096


def half_cosine_distance(features: Tensor, references: Tensor) -> Tensor:
    """½ (1 − the largest cosine with any reference), L2-normalised both: ``(N, T, D)``, ``(M, D)`` → ``(N, T)`` in
    [0, 1]."""
    parts = references.split(_REFERENCES)
    nearest = torch.stack([(features @ part.T).amax(dim=-1) for part in parts]).amax(dim=0)
    return ((1 - nearest) / 2).clamp(0, 1)
