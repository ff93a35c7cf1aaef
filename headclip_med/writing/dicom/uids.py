"""UIDs and series numbers of our own objects: functions of what they were made from, never of chance.

A rerun gets the same UIDs and replaces what it sent before; another model, option or source gets others.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any
from uuid import UUID

from headclip_med.base.versions import __version__
from headclip_med.engine.result import AnomalyResult

# What a run was done on and where it was told to write: it changes no number but by rounding.
_NOT_IDENTITY = {"device", "batch_size", "versions", "options", "plane_reason"}

# Last two digits of our series numbers; scanners number their own reconstructions from 01.
_SERIES_PLACE = {"seg": 91, "segscore": 92, "pm": 93, "sr": 94, "sc": 95}
_LARGEST_NUMBER = 2**31 - 1  # of an integer string


def derived_uid(*parts: str) -> str:
    """A UID below 2.25 from the SHA-256 of ``parts``: equal parts, equal UID."""
    text = "\0".join((*parts, "headclip-med"))
    return f"2.25.{UUID(bytes=hashlib.sha256(text.encode()).digest()[:16], version=5).int}"


def result_key(result: AnomalyResult, series_uid: str) -> str:
    """What decides a result's numbers as one line of JSON: source, model, preprocessing, threshold, version."""
    made_with = {key: value for key, value in result.provenance.items() if key not in _NOT_IDENTITY}
    facts: dict[str, Any] = {
        "series": series_uid,
        "content": result.meta.get("content_sha256"),
        "threshold": result.threshold,
        "planes": result.planes,
        "made_with": made_with,
        "version": __version__,
    }
    return json.dumps(facts, sort_keys=True, default=str)


def series_number(source_number: int | None, kind: str) -> int:
    """``NN91`` to ``NN95`` for the source series NN, by kind; 91 to 95 where the source has no usable number."""
    place = _SERIES_PLACE[kind]
    number = 100 * (source_number or 0) + place
    return number if 0 < number <= _LARGEST_NUMBER else place
