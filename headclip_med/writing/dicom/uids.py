"""UIDs and series numbers of our own objects: functions of what they were made from, never of chance.

A rerun gets the same UIDs and replaces what it sent before. Another model, option or source gets others.
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
    """Derive a UID below 2.25 from the SHA-256 of texts.

    Args:
        *parts: In order. Equal parts give equal UIDs.

    Returns:
        The UID.
    """
    text = "\0".join((*parts, "headclip-med"))
    return f"2.25.{UUID(bytes=hashlib.sha256(text.encode()).digest()[:16], version=5).int}"


def result_key(result: AnomalyResult, series_uid: str) -> str:
    """State what decides a result's numbers: source, model, preprocessing, threshold, version.

    Args:
        result: What was found.
        series_uid: SeriesInstanceUID of the source.

    Returns:
        One line of JSON.
    """
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
    """Number a series of ours by that of its source.

    Args:
        source_number: Of the source series, None where it has none.
        kind: One of :data:`headclip_med.writing.dicom.options.DICOM_KINDS`.

    Returns:
        ``NN91`` to ``NN95`` for the source series NN, by kind. 91 to 95 where that would be no valid number.
    """
    place = _SERIES_PLACE[kind]
    number = 100 * (source_number or 0) + place
    return number if 0 < number <= _LARGEST_NUMBER else place
