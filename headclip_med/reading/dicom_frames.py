"""Enhanced multi-frame objects: the functional groups of every frame → one header a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from headclip_med.reading.dicom_header import (
    LOCALIZER,
    ImageHeader,
    element,
    first_item,
    image_type,
    integer,
    numbers,
    orientation,
    positive_pair,
    text,
)

_FRAME_TYPES = (
    "CTImageFrameTypeSequence",
    "MRImageFrameTypeSequence",
    "PETFrameTypeSequence",
    "XRay3DFrameTypeSequence",
    "ParametricMapFrameTypeSequence",
)

# Dimensions that say where a frame lies, not what it shows.
_PLACES = {
    "InStackPositionNumber",
    "ImagePositionPatient",
    "StackID",
    "PlanePositionSequence",
    "ImageOrientationPatient",
}


def frame_headers(header: ImageHeader, dataset: Any) -> list[ImageHeader]:
    """One header for every frame that has a place; the file's own header, without a place, where no frame has one."""
    items = element(dataset, "PerFrameFunctionalGroupsSequence")
    nowhere = header if header.frames == 1 else replace(header, orientation=None, position=None)
    if header.frames < 1 or not isinstance(items, Sequence) or len(items) != header.frames:
        return [nowhere]
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    varying = _varying_dimensions(dataset)
    found = [_frame(header, number, _Groups(item, shared), varying) for number, item in enumerate(items)]
    return found if any(frame.orientation is not None for frame in found) else [nowhere]


class _Groups:
    """The functional groups of one frame: its own, else the shared ones."""

    def __init__(self, own: Any, shared: Any) -> None:
        self._own, self._shared = own, shared

    def group(self, keyword: str) -> Any:
        """The first item of a functional group."""
        return first_item(self._own, keyword) or first_item(self._shared, keyword)


def _frame(header: ImageHeader, number: int, groups: _Groups, varying: Sequence[int]) -> ImageHeader:
    measures, content = groups.group("PixelMeasuresSequence"), groups.group("FrameContentSequence")
    thickness = numbers(measures, "SliceThickness", 1)
    frame_type = _frame_type(groups)
    return replace(
        header,
        frame=number,
        orientation=orientation(groups.group("PlaneOrientationSequence")),
        position=numbers(groups.group("PlanePositionSequence"), "ImagePositionPatient", 3),
        pixel_spacing=positive_pair(measures, "PixelSpacing"),
        thickness=thickness[0] if thickness else None,
        stack=text(content, "StackID"),
        rescale=_rescale(groups),
        kind=LOCALIZER if header.kind == "image" and "LOCALIZER" in frame_type.split("/") else header.kind,
        facts=_facts(header, groups, content, frame_type, varying),
    )


def _facts(
    header: ImageHeader, groups: _Groups, content: Any, frame_type: str, varying: Sequence[int]
) -> tuple[str, ...]:
    """In the order of :data:`dicom_header.FACTS`."""
    diffusion = groups.group("MRDiffusionSequence")
    gradient = first_item(diffusion, "DiffusionGradientDirectionSequence")
    index = text(content, "DimensionIndexValues", 200).split("/")
    return (
        frame_type or header.fact("type"),
        "",
        text(groups.group("MREchoSequence"), "EffectiveEchoTime") or header.fact("echo time"),
        text(content, "TemporalPositionIndex"),
        text(diffusion, "DiffusionBValue"),
        "/".join(f"{x:.4f}" for x in numbers(gradient, "DiffusionGradientOrientation", 3) or ()),
        "/".join(index[place] for place in varying if place < len(index)),
        text(content, "FrameAcquisitionNumber"),
        text(groups.group("CardiacSynchronizationSequence"), "NominalCardiacTriggerDelayTime"),
        text(content, "FrameAcquisitionDateTime"),
    )


def _frame_type(groups: _Groups) -> str:
    for keyword in _FRAME_TYPES:
        if found := groups.group(keyword):
            return "/".join(filter(None, (image_type(found, "FrameType"), text(found, "ComplexImageComponent"))))
    return ""


def _rescale(groups: _Groups) -> tuple[float, float] | None:
    group = groups.group("PixelValueTransformationSequence")
    slope, intercept = numbers(group, "RescaleSlope", 1), numbers(group, "RescaleIntercept", 1)
    return None if slope is None or intercept is None else (slope[0], intercept[0])


def _varying_dimensions(dataset: Any) -> list[int]:
    """Which dimension indices do not say where a frame lies."""
    from pydicom.datadict import keyword_for_tag

    items = element(dataset, "DimensionIndexSequence")
    if not isinstance(items, Sequence):
        return []
    pointers = [integer(item, "DimensionIndexPointer") for item in items]
    return [n for n, tag in enumerate(pointers) if tag is not None and keyword_for_tag(tag) not in _PLACES]
