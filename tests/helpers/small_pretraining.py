"""The smallest pretraining that goes through two stages."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "width": 32,
    "depth": 3,
    "heads": 4,
    "local_start": 1,
    "taps": [2],
    "stages": [{"steps": 6, "count": 4, "size": 16}, {"steps": 2, "count": 2, "size": 32}],
    "phantoms": 0,
    "save_every": 4,
    "threshold": 0.5,
}
