"""``review.json``: what one reader said about one result. Frozen records, no patient data but what readers type.

The JSON schema in the package (``headclip_med/review.schema.json``) is :func:`schema_json` of these models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from headclip_med.base.errors import InputError
from headclip_med.base.types import RESEARCH_ONLY
from headclip_med.writing.record import FindingRecord, Millimetres, Voxel, _first_problem

# The second version follows that of results: no millimetres of a plain picture, and places in voxels, too.
SCHEMA_VERSION = "headclip_med.review/2"
_FIRST_SCHEMA = "headclip_med.review/1"

Status = Literal["accepted", "rejected", "uncertain"]
STATUSES: tuple[Status, ...] = ("accepted", "rejected", "uncertain")

Rating = Literal["normal", "abnormal", "uncertain"]
RATINGS: tuple[Rating, ...] = ("normal", "abnormal", "uncertain")

# Names a file on every system, and never a path.
READER_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$"

_LONGEST_TEXT = 4000

Confidence = Annotated[int, Field(ge=0, le=100, description="how sure the reader is, in per cent")]
Text = Annotated[str, Field(max_length=_LONGEST_TEXT)]
When = Annotated[str, Field(description="UTC, ISO 8601")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Run = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]]


def _present_version(version: Any) -> Any:
    """Fields of a review's first version are those of the second, less some."""
    return SCHEMA_VERSION if version == _FIRST_SCHEMA else version


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Mark(_Record):
    """A place that the reader pointed at: RAS mm, of a plain image a pixel through the affine of its record."""

    position_mm: Millimetres
    confidence: Confidence | None = None
    drawn: str | None = Field(default=None, description="id of the region whose centroid it was when it was given")


class Opinion(_Record):
    """What the reader thinks of the whole case."""

    rating: Rating
    confidence: Confidence
    marks: tuple[Mark, ...] = ()
    when: When


class FindingReview(_Record):
    """A decision on one region of the map: the component that was on the screen when it was judged.

    The region is the 26-connected component of ``map >= threshold`` that holds ``peak_voxel``, so that it can be
    cut out of the unaltered map again. ``finding`` repeats its measures for whoever has no map at hand.
    """

    id: str
    status: Status | None = None
    label: Text = ""
    note: Text = ""
    confidence: Confidence | None = None
    who: str
    when: When
    threshold: float
    peak_voxel: Voxel
    finding: FindingRecord


class DrawnFinding(_Record):
    """A region that the reader drew, in the source's own voxel grid, and what the map says there."""

    id: str = Field(pattern=r"^d[1-9][0-9]*$")
    label: Text = ""
    note: Text = ""
    confidence: Confidence | None = None
    who: str
    when: When
    unaided: bool = Field(description="drawn before the overlay was ever shown")
    runs: tuple[Run, ...] = Field(description="(first, length) of runs of voxels, C order of the array (I, J, K)")
    finding: FindingRecord


class ResultLink(_Record):
    """The result that a review belongs to."""

    name: str = Field(description="base name of the result folder")
    result_sha256: Sha256 = Field(description="of result.json")
    map_sha256: Sha256
    source_name: str = Field(description="base name of the source")
    content_sha256: str | None = Field(description="of the source")
    shape: Voxel


class CaseReview(_Record):
    """Everything that one reader said about one result: the content of ``review_READER.json``."""

    schema_version: Annotated[Literal["headclip_med.review/2"], BeforeValidator(_present_version)] = (
        "headclip_med.review/2"
    )
    research_use_only: str = RESEARCH_ONLY
    reader: str = Field(pattern=READER_PATTERN)
    result: ResultLink
    software: str = Field(description="name and version of the program that began it")
    started: When
    updated: When
    actions: int = Field(ge=0, description="how many actions of the journal are in it")
    unaided_first: bool = Field(description="the reader had to give an opinion before the overlay")
    first_opinion: Opinion | None = Field(default=None, description="before the overlay was shown")
    overlay_shown: When | None = Field(default=None, description="when the overlay was shown for the first time")
    opinion: Opinion | None = Field(default=None, description="with the overlay")
    threshold: float = Field(description="that the reader ended with")
    findings: dict[str, FindingReview] = Field(default_factory=dict)
    drawn: dict[str, DrawnFinding] = Field(default_factory=dict)
    note: Text = ""
    done: bool = False


@contextmanager
def values_in_words() -> Iterator[None]:
    """Turn pydantic's refusal of a value into an :class:`InputError`.

    Raises:
        InputError: a value that does not fit the schema.
    """
    try:
        yield
    except ValidationError as error:
        raise InputError("What is said in a review must fit its schema", _first_problem(error)) from error


def review_json(review: CaseReview) -> str:
    """Encode a review as the text of ``review.json``.

    Args:
        review: what the reader said.

    Returns:
        Strict JSON with an indent of two spaces and a newline at the end.
    """
    return json.dumps(review.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def review_schema() -> dict[str, Any]:
    """Describe ``review.json`` by a JSON schema (draft 2020-12).

    Returns:
        The schema as a JSON object.
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **CaseReview.model_json_schema()}
