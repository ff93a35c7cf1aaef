"""The source images of a result: their headers read again, checked, and made fit to derive objects from.

Source files are only read. Every source frame becomes one plain header of our own making, whatever the source was
(big-endian, enhanced multi-frame, rounded direction cosines, a missing type 2 attribute). Once an object is made,
:meth:`SourceImages.restore_references` puts the true classes, UIDs and frame numbers back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, SecondaryCaptureImageStorage
from pydicom.valuerep import DSfloat

from headclip_med.base.errors import InputError, OutputError
from headclip_med.base.types import Affine
from headclip_med.reading.checks import check_size, collected_warnings, refuse_damage
from headclip_med.reading.dicom.header import opened
from headclip_med.reading.dicom.series import ORIENTATION_TOLERANCE, commonest
from headclip_med.reading.dicom.values import integer
from headclip_med.writing.dicom.header import clean_header, frame_geometry, is_multiframe
from headclip_med.writing.dicom.uids import derived_uid

_AGAIN = "Put the images back where they were read from and run the prediction again"


@dataclass(frozen=True)
class SourceFrame:
    """One slice as it was read.

    Attributes:
        k: Its index in the volume as read. Array ``[:, :, k]`` transposed is its pixel matrix.
        sop_class, sop_uid: Of its instance.
        number: From 1, in a multi-frame instance. None in others.
        header: Plain single-frame header, whose UID is that of the instance, or one of its own for a frame of many.
        to_lps: (column, row, 1) → LPS mm, ``(3, 3)``. None: no place in the patient.
    """

    k: int
    sop_class: str
    sop_uid: str
    number: int | None
    header: Dataset
    to_lps: NDArray[np.float64] | None


@dataclass(frozen=True)
class SourceImages:
    """All source frames of a result.

    Attributes:
        frames: In order of the volume as read, one at least.
        resampled: The volume is on another grid than the images.
    """

    frames: tuple[SourceFrame, ...]
    resampled: bool

    @property
    def header(self) -> Dataset:
        """Of the first frame: patient, study, series."""
        return self.frames[0].header

    @property
    def headers(self) -> list[Dataset]:
        """One plain header per frame."""
        return [frame.header for frame in self.frames]

    @property
    def placed(self) -> bool:
        """Whether the images say where they lie in the patient."""
        return self.frames[0].to_lps is not None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, rows, columns."""
        return len(self.frames), int(self.header.Rows), int(self.header.Columns)

    @cached_property
    def instances(self) -> dict[str, str]:
        """SOPInstanceUID → SOPClassUID of every source instance, in order."""
        return {frame.sop_uid: frame.sop_class for frame in self.frames}

    @cached_property
    def by_reference(self) -> Mapping[str, SourceFrame]:
        """Frames by the UID of their plain header."""
        return {str(frame.header.SOPInstanceUID): frame for frame in self.frames}

    def evidence(self) -> list[Dataset]:
        """List what a report may refer to: one header per source instance, under its true UIDs.

        Returns:
            Copies of the first frame's header, with class and UID of each instance.
        """
        made = []
        for uid, sop_class in self.instances.items():
            item = Dataset()
            item.update(self.header)  # shares elements: they are replaced, never changed
            item.add_new("SOPClassUID", "UI", sop_class)
            item.add_new("SOPInstanceUID", "UI", uid)
            made.append(item)
        return made

    def restore_references(self, dataset: Dataset) -> None:
        """Put true classes, UIDs and frame numbers where an object refers to the plain headers.

        Args:
            dataset: The object, which is changed at all depths.
        """
        for keyword in ("SourceImageSequence", "ReferencedInstanceSequence"):
            if keyword in dataset:
                dataset[keyword].value = self._one_per_instance(dataset[keyword].value)
        for element in dataset:
            if element.VR == "SQ":
                for item in element.value:
                    self._restore_item(item)
                    self.restore_references(item)

    def _restore_item(self, item: Dataset) -> None:
        frame = self.by_reference.get(str(item.get("ReferencedSOPInstanceUID", "")))
        if frame is not None:
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = frame.sop_class, frame.sop_uid
            if frame.number is not None and "PurposeOfReferenceCodeSequence" in item:
                item.ReferencedFrameNumber = frame.number

    def _one_per_instance(self, items: Sequence[Dataset]) -> list[Dataset]:
        """The first item of each instance, as frames of one file would name it again and again."""
        kept: dict[str, Dataset] = {}
        for item in items:
            reference = str(item.get("ReferencedSOPInstanceUID", ""))
            frame = self.by_reference.get(reference)
            kept.setdefault(reference if frame is None else frame.sop_uid, item)
        return list(kept.values())


def read_sources(meta: Mapping[str, Any], affine: Affine) -> SourceImages:
    """Read the headers of the source images that a volume names, and check that they are fit to write about.

    Args:
        meta: Of the volume. ``slice_files`` and ``slice_uids`` are needed.
        affine: Voxel index → RAS mm of the volume as read, ``(4, 4)``. Gives the thickness where a header has none.

    Returns:
        The images with one orientation and spacing, in order of the volume.

    Raises:
        OutputError: the volume does not say which images it was read from, or they cannot serve as a base.
        InputError: an image is gone, unreadable, too large or no longer the one that was read.
    """
    files, uids = list(meta.get("slice_files") or []), list(meta.get("slice_uids") or [])
    if not files or len(files) != len(uids):
        raise OutputError(
            "A DICOM object must be made from a volume that knows its source images",
            "a volume without slice_files",
            "Read the series with headclip_med.reading",
        )
    if meta.get("tiled"):
        raise OutputError(
            "The source images must hold one slice in each frame for DICOM objects about them",
            "a mosaic, which tiles many slices in one",
            "Ask for NIfTI results, or export the series as single slices and predict on these",
        )
    numbers = list(meta.get("slice_frames") or [0] * len(files))
    step = float(np.linalg.norm(affine[:3, 2]))
    opened: dict[str, Dataset] = {}
    frames: dict[tuple[str, int], SourceFrame] = {}
    for k, (file, number, uid) in enumerate(zip(files, numbers, uids, strict=True)):
        if file and (file, number) not in frames:
            if file not in opened:
                opened[file] = _read(Path(file))
            name = Path(file).name
            with refuse_damage(name, "DICOM"), collected_warnings([], "pydicom", "pydicom"):
                frames[file, number] = _frame(opened[file], k, int(number), str(uid), name, step)
    if not frames:
        raise OutputError("A DICOM object must be made from at least one source image", "none")
    sources = SourceImages(_aligned(tuple(frames.values())), bool(meta.get("resampled", False)))
    check_size(sources.shape, "The source images")
    return sources


def _read(path: Path) -> Dataset:
    if not path.is_file():
        raise InputError("The source images must still be where they were read", f"no {path.name}", _AGAIN)
    with refuse_damage(path.name, "DICOM"), collected_warnings([], "pydicom", "pydicom"), opened(path) as file:
        return dcmread(file, stop_before_pixels=True)


def _frame(source: Dataset, k: int, number: int, uid: str, name: str, step: float) -> SourceFrame:
    found = str(source.get("SOPInstanceUID", ""))
    if found != uid:
        raise InputError("The source images must be those that were read", f"another image in {name} now", _AGAIN)
    header, geometry, many = clean_header(source), frame_geometry(source, number), is_multiframe(source)
    for keyword in ("Rows", "Columns"):
        header.add_new(keyword, "US", integer(source, keyword))
    if geometry is None:
        header.SOPClassUID = SecondaryCaptureImageStorage
    else:
        header.SOPClassUID = CTImageStorage
        header.ImageOrientationPatient = [DSfloat(v, auto_format=True) for v in geometry.orientation]
        header.ImagePositionPatient = [DSfloat(v, auto_format=True) for v in geometry.position]
        header.PixelSpacing = [DSfloat(v, auto_format=True) for v in geometry.spacing]
        header.SliceThickness = DSfloat(geometry.thickness or step, auto_format=True)
        if "FrameOfReferenceUID" not in header:
            header.FrameOfReferenceUID = derived_uid("frame of reference", str(header.SeriesInstanceUID))
    header.SOPInstanceUID = derived_uid("frame", uid, str(number)) if many else uid
    return SourceFrame(
        k,
        str(source.SOPClassUID),
        uid,
        number + 1 if many else None,
        header,
        None if geometry is None else geometry.to_lps,
    )


def _aligned(frames: tuple[SourceFrame, ...]) -> tuple[SourceFrame, ...]:
    """The same frames with one orientation and one spacing, which an object states once for all of its frames."""
    first = frames[0].header
    if len({(frame.sop_uid, frame.number) for frame in frames}) < len(frames):
        raise OutputError(
            "Every source image must have a SOPInstanceUID of its own to be written about",
            "one for several",
            "Give the images UIDs of their own, or ask for NIfTI results",
        )
    for frame in frames[1:]:
        header = frame.header
        same = (header.Rows, header.Columns) == (first.Rows, first.Columns)
        if not same or header.SeriesInstanceUID != first.SeriesInstanceUID:
            raise OutputError("The source images must be of one series and size to be written about", "others too")
        if (frame.to_lps is None) != (frames[0].to_lps is None):
            raise OutputError("All source images, or none, must say where they lie", "some")
        if frame.to_lps is None:
            continue
        apart = np.subtract(header.ImageOrientationPatient, first.ImageOrientationPatient, dtype=float)
        if np.abs(apart).max() > ORIENTATION_TOLERANCE:
            raise OutputError("The source images must lie parallel to be written about", "several orientations")
        for keyword in ("SliceThickness", "FrameOfReferenceUID"):
            header[keyword] = first[keyword]
    if frames[0].to_lps is not None:
        for keyword in ("ImageOrientationPatient", "PixelSpacing"):
            _share(frames, keyword)
    return frames


def _share(frames: tuple[SourceFrame, ...], keyword: str) -> None:
    """Give every header the values of ``keyword`` that the reader takes for all."""
    stated = [tuple(float(value) for value in frame.header[keyword].value) for frame in frames]
    chosen = frames[stated.index(commonest(stated) or stated[0])].header[keyword]
    for frame in frames:
        frame.header[keyword] = chosen


def check_places(frames: Sequence[SourceFrame]) -> None:
    """Refuse what an object made of frames cannot say: several frames without a place, or two in one.

    Args:
        frames: All with a place or all without. A single one always passes.

    Raises:
        OutputError: the frames are such.
    """
    if len(frames) == 1:
        return
    if frames[0].to_lps is None:
        raise OutputError(
            "Several images must say where they lie for a segmentation or map of them",
            f"{len(frames)} images without a place in the patient",
            "Ask for sc instead, or give one image",
        )
    orientation = np.array(frames[0].header.ImageOrientationPatient, dtype=float)
    normal = np.cross(orientation[:3], orientation[3:])
    along = [float(np.dot(np.array(f.header.ImagePositionPatient, dtype=float), normal)) for f in frames]
    if len({round(value, 5) for value in along}) < len(along):
        raise OutputError(
            "Every source image must have its own position", "duplicate positions", "Separate the series first"
        )
