"""Enhanced multi-frame objects: the functional groups of every frame → one header a frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from headclip_med.reading.dicom.header import LOCALIZER, ImageHeader
from headclip_med.reading.dicom.values import (
    element,
    finite_number,
    first_item,
    image_type,
    integer,
    numbers,
    orientation,
    positive_pair,
    rescale_factors,
    text,
)

_FRAME_TYPES = (
    "CTImageFrameTypeSequence",
    "MRImageFrameTypeSequence",
    "PETFrameTypeSequence",
    "XRay3DFrameTypeSequence",
    "ParametricMapFrameTypeSequence",
)

_Read = TypeVar("_Read")

# Dimensions that say where a frame lies, not what it shows.
_PLACES = {
    "InStackPositionNumber",
    "ImagePositionPatient",
    "StackID",
    "PlanePositionSequence",
    "ImageOrientationPatient",
}


def frame_headers(header: ImageHeader, dataset: Any) -> list[ImageHeader]:
    """Make one header for every frame that has a place.

    Args:
        header: Of the file.
        dataset: All elements but the pixels.

    Returns:
        The frames' headers, or the file's own without a place, where no frame has one.
    """
    items = element(dataset, "PerFrameFunctionalGroupsSequence")
    nowhere = header if header.frames == 1 else replace(header, orientation=None, position=None)
    if header.frames < 1 or not isinstance(items, Sequence) or len(items) != header.frames:
        return [nowhere]
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    varying = _varying_dimensions(dataset)
    found = [_frame(header, number, _Groups(item, shared), varying) for number, item in enumerate(items)]
    return found if any(frame.orientation is not None for frame in found) else [nowhere]


class _Groups:
    """The functional groups of one frame: its own, and the shared ones for what those do not state."""

    def __init__(self, own: Any, shared: Any) -> None:
        self._own, self._shared = own, shared

    def group(self, keyword: str) -> Any:
        """The first item of a functional group."""
        return first_item(self._own, keyword) or first_item(self._shared, keyword)

    def places(self, keyword: str) -> list[Any]:
        """The first item of a functional group of the frame, and of the shared one."""
        return [first_item(self._own, keyword), first_item(self._shared, keyword)]

    def first(self, keyword: str, read: Callable[[Any], _Read | None]) -> _Read | None:
        """What ``read`` finds in the frame's own group, else in the shared one; an empty element is an absent one."""
        return next((found for place in self.places(keyword) if (found := read(place)) is not None), None)


def _frame(header: ImageHeader, frame: int, groups: _Groups, varying: Sequence[int]) -> ImageHeader:
    content, frame_type = groups.group("FrameContentSequence"), _frame_type(groups)
    own_scale = rescale_factors(*groups.places("PixelValueTransformationSequence"))
    return replace(
        header,
        frame=frame,
        orientation=groups.first("PlaneOrientationSequence", orientation),
        position=groups.first("PlanePositionSequence", partial(numbers, key="ImagePositionPatient", count=3)),
        pixel_spacing=groups.first("PixelMeasuresSequence", partial(positive_pair, keyword="PixelSpacing")),
        thickness=groups.first("PixelMeasuresSequence", partial(finite_number, key="SliceThickness")),
        stack=text(content, "StackID"),
        rescale=header.rescale if own_scale is None else own_scale,
        kind=LOCALIZER if header.kind == "image" and "LOCALIZER" in frame_type.split("/") else header.kind,
        facts=_facts(header, frame, groups, content, frame_type, varying),
    )


def _facts(
    header: ImageHeader, frame: int, groups: _Groups, content: Any, frame_type: str, varying: Sequence[int]
) -> tuple[str, ...]:
    """In the order of :data:`header.FACTS`."""
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
        text(groups.group("MRModifierSequence"), "InversionTimes") or header.fact("inversion time"),
        text(groups.group("CTReconstructionSequence"), "ConvolutionKernel", 64) or header.fact("kernel"),
        header.fact("contrast"),
        header.fact("description"),
        "/".join(index[place] for place in varying if place < len(index)),
        text(content, "FrameAcquisitionNumber"),
        text(groups.group("CardiacSynchronizationSequence"), "NominalCardiacTriggerDelayTime"),
        text(content, "FrameAcquisitionDateTime"),
        f"{header.fact('instance')}{frame:09d}",
    )


def _frame_type(groups: _Groups) -> str:
    for keyword in _FRAME_TYPES:
        if found := groups.group(keyword):
            return "/".join(filter(None, (image_type(found, "FrameType"), text(found, "ComplexImageComponent"))))
    return ""


def _varying_dimensions(dataset: Any) -> list[int]:
    """Which dimension indices do not say where a frame lies."""
    from pydicom.datadict import keyword_for_tag

    items = element(dataset, "DimensionIndexSequence")
    if not isinstance(items, Sequence):
        return []
    pointers = [integer(item, "DimensionIndexPointer") for item in items]
    return [n for n, tag in enumerate(pointers) if tag is not None and keyword_for_tag(tag) not in _PLACES]
