"""Frames in order → one array with NaN where there is nothing; what is damaged is named, what changed is refused."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread, uid

from headclip_med.base.errors import InputError
from headclip_med.reading.checks import check_size, collected_warnings, refuse_damage, sha256_of_digests
from headclip_med.reading.dicom.header import ImageHeader, check_deflated, file_stamp, unpacked
from headclip_med.reading.dicom.pixels import Plane, UnknownSyntaxError, contradicts, overlays, planes, window
from headclip_med.reading.dicom.split import SAME_PLACE_MM, along_normal
from headclip_med.reading.dicom.values import element, integer

# Elements that decoders take for whole numbers.
_COUNTS = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
)
_ONE_SAMPLE = ("MONOCHROME", "PALETTE")

# A decoder may take seconds over a damaged frame before it gives up; a series of such frames is given up sooner.
_MOST_WASTED_SECONDS = 60.0


@dataclass(frozen=True)
class Decoded:
    """Pixels of a layout.

    Attributes:
        array: ``(C, I, J, K)`` float32, where NaN stands for padding or no slice, and infinity for values that the file
            itself leaves undefined.
        failed: slices that cannot be decoded, and why.
        sha256: of what was read.
        window: ``[level, width]`` of the middle slice.
    """

    array: NDArray[np.float32]
    failed: dict[int, InputError]
    sha256: str
    window: list[float] | None

    def part(self, first: int, end: int) -> Decoded:
        """Cut slices ``first … end − 1``.

        Args:
            first, end: Slices along K.

        Returns:
            The same of these slices alone.
        """
        failed = {k - first: problem for k, problem in self.failed.items() if first <= k < end}
        return replace(self, array=self.array[..., first:end].copy(), failed=failed)


def decode(layout: Sequence[ImageHeader | None], name: str, notes: list[str], *, may_fail: bool) -> Decoded:
    """Decode every slice of a layout, file by file.

    Args:
        layout: Headers in order, None for an empty slice.
        name: What to call the series in messages.
        notes: Doubts are added to them.
        may_fail: A damaged slice stays empty and is named in ``failed``, as long as one slice is whole.

    Returns:
        The pixels.

    Raises:
        InputError: a damaged slice that may not fail, or a file that changed since its header was read.
    """
    work = _Work(layout, name)
    with collected_warnings(notes, "pydicom", "pydicom"):
        for path, places in _by_file(layout).items():
            work.read(path, places, may_fail)
    if work.array is None:
        raise next(iter(work.failed.values()))
    if work.overlays:
        notes.append(f"overlays in {work.overlays} image(s) are ignored")
    if work.contradictions:
        notes.append(f"HighBit contradicts BitsStored in {work.contradictions} image(s), and is ignored")
    if work.padded:
        notes.append(f"{work.padded} pixels hold the padding value and are read as background")
    return Decoded(work.array, work.failed, work.sha256(), work.window)


class _Work:
    """What decoding has come to so far."""

    def __init__(self, layout: Sequence[ImageHeader | None], name: str) -> None:
        self.layout, self.name = layout, name
        self.array: NDArray[np.float32] | None = None
        self.failed: dict[int, InputError] = {}
        self.window: list[float] | None = None
        self.overlays = self.contradictions = self.padded = 0
        self._digests: list[str] = []
        self._wasted = 0.0
        filled = [k for k, header in enumerate(layout) if header is not None]
        self._middle = filled[len(filled) // 2]

    def read(self, path: Path, places: list[int], may_fail: bool) -> None:
        """All wanted frames of one file."""
        headers = [header for k in places if (header := self.layout[k]) is not None]
        try:
            dataset, digest = open_dicom(headers[0])
        except InputError as problem:
            self._fail(problem, places, may_fail)
            self._digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
            return
        frames = [header.frame for header in headers]
        tiles = [header.tile for header in headers if header.tile is not None]
        is_part = len(places) < (tiles[0].total if tiles else headers[0].frames)
        names = sorted(tile.number for tile in tiles) if tiles else sorted(frames)
        self._digests.append(sha256_of_digests([digest, *map(str, names)]) if is_part else digest)
        self.overlays += overlays(dataset)
        self.contradictions += contradicts(dataset)
        if self._middle in places:
            self.window = window(dataset, frames[places.index(self._middle)])
        decoded = planes(dataset, headers)
        for number, k in enumerate(places):
            began = time.monotonic()
            try:
                plane = next(decoded)
            except InputError as problem:  # of the file as a whole: no decoder, a lying codestream
                plane, is_whole = problem, True
            else:
                is_whole = bool(tiles)  # which share one frame
            if not isinstance(plane, InputError):
                self.put(k, plane)
                continue
            self._fail(plane, places[number:] if is_whole else [k], may_fail)
            self._waste(time.monotonic() - began)
            if is_whole:
                return

    def _fail(self, problem: InputError, places: Sequence[int], may_fail: bool) -> None:
        """Raise ``problem``, or remember it for the slices at ``places``."""
        if may_fail and not isinstance(problem, _HopelessError):
            self.failed.update(dict.fromkeys(places, problem))
            return
        is_all = len(places) == sum(header is not None for header in self.layout)
        if is_all or may_fail or "pip install" in problem.do or isinstance(problem, UnknownSyntaxError):
            raise problem
        do = f"{problem.do}, or read the others with --on-irregular keep"
        raise type(problem)(problem.must, problem.given, do) from problem

    def _waste(self, seconds: float) -> None:
        """Give up on a series whose damaged slices keep the decoders busy."""
        self._wasted += seconds
        if self._wasted > _MOST_WASTED_SECONDS:
            raise _HopelessError(
                f"{self.name} must hold pixel data that can be decoded in reasonable time",
                f"{len(self.failed)} damaged slices that took {self._wasted:.0f} s to fail",
                "Export the series again, uncompressed if possible",
            )

    def put(self, k: int, plane: Plane) -> None:
        """A decoded slice at its place; the first one decides the number of channels."""
        if self.array is None:
            shape = (plane.shape[0], plane.shape[2], plane.shape[1], len(self.layout))
            check_size(shape, self.name)
            self.array = np.full(shape, np.nan, dtype=np.float32)
        if plane.shape[0] != self.array.shape[0]:
            raise InputError(f"The images of {self.name} must be of one kind", "grey and colour", "Separate them first")
        self.padded += int(np.isnan(plane).sum())
        self.array[..., k] = plane.transpose(0, 2, 1)

    def sha256(self) -> str:
        """Of one file's bytes; of several files' sorted digests."""
        return self._digests[0] if len(self._digests) == 1 else sha256_of_digests(sorted(self._digests))


def _by_file(layout: Sequence[ImageHeader | None]) -> dict[Path, list[int]]:
    """Slices by the file that holds them, in order of their first slice."""
    files: dict[Path, list[int]] = {}
    for k, header in enumerate(layout):
        if header is not None:
            files.setdefault(header.path, []).append(k)
    return files


class _HopelessError(InputError):
    """A file that is not what its header was read from, or damage without end: no policy helps."""


def open_dicom(header: ImageHeader) -> tuple[Any, str]:
    """Open a DICOM file as it was when its header was read.

    Args:
        header: Of one of its images.

    Returns:
        The whole dataset and the sha256 of the file's bytes.

    Raises:
        InputError: a file that changed since its header was read, or that cannot be parsed.
    """
    path = header.path
    try:
        before = file_stamp(path)
        content = path.read_bytes() if before == header.stamp else b""
        unchanged = before == header.stamp == file_stamp(path) and len(content) == header.stamp[0]
    except OSError:
        unchanged = False
    if not unchanged:
        raise _HopelessError(
            f"{path.name} must not change while it is read",
            "a file that changed, or went away, after its header was read",
            "Wait until the series is complete, then read it again",
        )
    with refuse_damage(path.name, "DICOM"):
        check_deflated(path)
        with unpacked(BytesIO(content), path) as file:
            return _counted(_with_syntax(dcmread(file, force=True))), hashlib.sha256(content).hexdigest()


def _counted(dataset: Any) -> Any:
    """Make whole numbers of those that decoders go by, whatever their elements hold; one that is none is absent."""
    for keyword in _COUNTS:
        if keyword in dataset and not isinstance(element(dataset, keyword), int):
            found = integer(dataset, keyword)
            del dataset[keyword]
            if found is not None:
                setattr(dataset, keyword, found)
    if not dataset.get("NumberOfFrames", 1):
        del dataset.NumberOfFrames
    if "BitsStored" not in dataset and "BitsAllocated" in dataset:
        dataset.BitsStored = dataset.BitsAllocated
    if "SamplesPerPixel" not in dataset and str(dataset.get("PhotometricInterpretation")).startswith(_ONE_SAMPLE):
        dataset.SamplesPerPixel = 1
    return dataset


def _with_syntax(dataset: Any) -> Any:
    """A file without a meta group is as its elements were read: never compressed."""
    if not dataset.file_meta.get("TransferSyntaxUID"):
        is_implicit, is_little = dataset.original_encoding
        explicit = uid.ExplicitVRLittleEndian if is_little else uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if is_implicit else explicit
    return dataset


def with_scales(headers: Sequence[ImageHeader], notes: list[str]) -> tuple[ImageHeader, ...]:
    """Complete the slope and intercept of every image.

    A slope of 0 in every image says nothing: it is left out, as other software does, and said. One that some images do
    not state is neutral, as long as the others' is: else those images have no scale, which decoding refuses.

    Args:
        headers: Of one volume.
        notes: Doubts are added to them.

    Returns:
        The headers with their scales.
    """
    slopes, intercepts = zip(*(header.rescale or (None, None) for header in headers), strict=True)
    if all(slope == 0 for slope in slopes):
        notes.append("RescaleSlope is 0, which makes all pixels alike: the stored values are taken")
        slopes = (1.0,) * len(headers)
    scales = zip(_with_missing(slopes, 1.0), _with_missing(intercepts, 0.0), strict=True)
    return tuple(replace(header, rescale=scale) for header, scale in zip(headers, scales, strict=True))


def _with_missing(stated: Sequence[float | None], neutral: float) -> list[float]:
    """What is not stated is neutral, or infinite where others state something else."""
    is_neutral = all(value in (None, neutral) for value in stated)
    return [(neutral if is_neutral else np.inf) if value is None else value for value in stated]


def drop_copies(headers: Sequence[ImageHeader], notes: list[str]) -> tuple[ImageHeader, ...]:
    """Leave out slices that lie in the place of another and hold the same pixels, for which only such files are opened.

    Args:
        headers: Of one volume, all with a place.
        notes: How many were left out is added to them.

    Returns:
        The headers that are left, in order of position.
    """
    along = along_normal(headers)
    order = np.argsort(along, kind="stable")
    kept: list[ImageHeader] = []
    place: dict[bytes, ImageHeader] = {}
    last, dropped = -np.inf, 0
    twins = np.diff(along[order]) < SAME_PLACE_MM
    is_twin = np.concatenate([[False], twins]) | np.concatenate([twins, [False]])
    for n, i in enumerate(order):
        header = headers[int(i)]
        if not is_twin[n]:
            kept.append(header)
            continue
        if along[i] - last >= SAME_PLACE_MM:
            place = {}
        last = along[i]
        pixels = pixel_digest(header)
        if pixels in place:
            dropped += 1
        else:
            place[pixels] = header
            kept.append(header)
    if dropped:
        notes.append(f"left out: {dropped} × copy of another slice (same place, same pixels)")
    return tuple(kept)


def pixel_digest(header: ImageHeader) -> bytes:
    """Digest a slice's values, however they are compressed, or its file where they cannot be decoded.

    Args:
        header: Of the slice.

    Returns:
        sha256 of the values, else the hash or name of the file.
    """
    content = str(header.path)
    try:
        dataset, content = open_dicom(header)
        plane = next(planes(dataset, [header]))
    except InputError:
        return content.encode()
    return content.encode() if isinstance(plane, InputError) else hashlib.sha256(plane.tobytes()).digest()


def blank_slices(array: NDArray[np.float32]) -> list[int]:
    """List the slices along K that hold nothing at all.

    Args:
        array: ``(C, I, J, K)``, NaN where there is nothing.

    Returns:
        Their indices, rising.
    """
    if not np.isnan(array.min()):  # the minimum is NaN where anything is
        return []
    return [int(k) for k in np.flatnonzero(np.isnan(array).all(axis=(0, 1, 2)))]


def fill_blank(array: NDArray[np.float32], *, bright: bool) -> None:
    """Give padding and empty slices the value of background, in place.

    Args:
        array: ``(C, I, J, K)``, NaN where there is nothing.
        bright: Background is the greatest value, not the least.
    """
    if not np.isnan(array.min()):
        return
    for channel in array:
        blank = np.isnan(channel)
        values = channel[np.isfinite(channel)]
        if values.size:
            channel[blank] = values.max() if bright else values.min()
