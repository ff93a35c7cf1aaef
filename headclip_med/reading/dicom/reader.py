"""DICOM series or single image → volume; slices in order of position, geometry measured, never assumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from headclip_med.base.errors import InputError
from headclip_med.base.geometry import slice_centres
from headclip_med.base.types import Affine, VolumeMeta
from headclip_med.base.volume import LoadedVolume
from headclip_med.reading.checks import check_size, finish, pick_time
from headclip_med.reading.dicom.decode import Decoded, blank_slices, decode, drop_copies, fill_blank, with_scales
from headclip_med.reading.dicom.grid import CONVERT, POLICIES, Policy, Stack, measure_stack, placed, single_grid
from headclip_med.reading.dicom.header import DICOMDIR, ImageHeader, check_frame_count
from headclip_med.reading.dicom.resample import resample
from headclip_med.reading.dicom.series import (
    DAMAGED,
    FoundImages,
    SeriesInfo,
    choose,
    own_kinds,
    referenced_files,
    scan,
)

Headers = Sequence[ImageHeader]


def read_dicom(
    source: Path | Sequence[Path],
    *,
    series: str | int | None = None,
    time: int | None = None,
    on_irregular: str = "error",
    name: str | None = None,
) -> LoadedVolume:
    """Read one DICOM series from a folder (searched recursively), a DICOMDIR, a list of its files, or one file.

    Axes: I along columns (x), J along rows (y), K along the slice normal. Values after per-slice rescale. MONOCHROME1
    keeps its values and sets ``display_inverted``, and colour becomes RGB in [0, 255].

    Args:
        source: Folder, file or files.
        series: Which series, see :func:`headclip_med.reading.dicom.series.choose`, needed where a folder holds several.
        time: Which frame of a cine, None for all of them, and 0 or None for a volume.
        on_irregular: What to do with gaps, uneven steps, tilt and damaged slices: ``error``, ``split``, ``resample`` or
            ``keep``.
        name: What to call the source, default the folder's or file's own name.

    Returns:
        ``(C, I, J, K)`` float32 with its affine to RAS mm.

    Raises:
        InputError: no image, several series, an irregular stack (what, where, and which policies help), undecodable.
    """
    policy = check_policy(on_irregular)
    images, name, notes = _images(source, series, policy, name)
    images = with_scales(images, notes)
    check_size((max(i.samples for i in images), images[0].columns, images[0].rows, _frame_count(images)), name)
    kinds = sorted({header.photometric for header in images})
    if len(kinds) > 1:
        odd = next(header for header in images if header.photometric != images[0].photometric)
        given = f"{', '.join(kinds)}: {images[0].path.name} and {odd.path.name} differ"
        raise InputError(f"The images of {name} must be of one kind", given, "Separate them first")
    if len(images) == 1:
        return _single(images[0], time, policy, name, notes)
    pick_time(1, time, name)
    images = drop_copies(placed(images, name, policy, notes), notes)
    if len(images) == 1:
        return _single(images[0], time, policy, name, notes)
    return _stack(images, policy, name, notes)


def list_series(source: Path | Sequence[Path], on_irregular: str = "error") -> list[SeriesInfo]:
    """List the series to choose from, ordered by series number.

    Args:
        source: A folder, DICOMDIR or list of files.
        on_irregular: With ``split`` the regular stretches of irregular series are listed.

    Returns:
        The series, none without images.

    Raises:
        InputError: no such policy, or a damaged DICOMDIR.
    """
    found, _ = _scanned(source)
    return (found.in_stretches() if check_policy(on_irregular) == "split" else found).infos()


def check_policy(on_irregular: str) -> Policy:
    """Find a policy by its name.

    Args:
        on_irregular: What was asked for.

    Returns:
        The policy.

    Raises:
        InputError: no such policy.
    """
    for policy in POLICIES:
        if on_irregular == policy:
            return policy
    raise InputError(f"on_irregular must be one of {', '.join(POLICIES)}", on_irregular, "Choose one of them")


def _frame_count(images: Headers) -> int:
    return images[0].frames if images[0].is_pictures else len(images)


def _images(
    source: Path | Sequence[Path], series: str | int | None, policy: Policy, name: str | None
) -> tuple[Headers, str, list[str]]:
    """The chosen images in no particular order, the name to call them by, and notes."""
    found, own_name = _scanned(source)
    name = name or own_name
    if isinstance(source, Path) and source.is_file() and not found.groups:
        raise _unusable_file(found, name)
    group, notes = choose(found, series, name, is_split=policy == "split")
    remarks = dict.fromkeys(image.remark for image in group.images if image.remark)
    return group.images, name, [*found.notes, *found.dropped_in_words(), *remarks, *notes]


def _scanned(source: Path | Sequence[Path]) -> tuple[FoundImages, str]:
    """What a folder, file, DICOMDIR or list holds, and its name."""
    if not isinstance(source, Path):
        return scan(source), source[0].resolve().parent.name if source else "The list of files"
    if not source.is_file():
        return scan(source), source.resolve().name or "The folder"
    found = scan([source], own_kinds())
    if not found.dropped[DICOMDIR]:
        return found, source.name
    files, lost = referenced_files(source)
    found = scan(files)
    return replace(found, dropped=found.dropped + lost), source.resolve().parent.name or source.name


def _unusable_file(found: FoundImages, name: str) -> InputError:
    if found.dropped[DAMAGED]:
        return InputError(f"{name} must be a readable DICOM file", "a damaged header", "Copy or export the file again")
    kind = next(iter(found.dropped), "file that is not DICOM")
    do = "" if kind.startswith("mosaic") else "Give the source images"  # a mosaic says itself what to do
    return InputError(f"{name} must be an image", f"a {kind}", do)


def _single(header: ImageHeader, time: int | None, policy: Policy, name: str, notes: list[str]) -> LoadedVolume:
    """One slice in its place, one picture, or the frames of a cine as independent pictures."""
    pick_time(header.frames if header.is_pictures else 1, time or 0, name)
    frames = [header]
    if header.is_pictures:
        check_frame_count(header)
        chosen = range(header.frames) if time is None else [time]
        frames = [replace(header, frame=frame) for frame in chosen]
    header, affine = single_grid(header, notes)
    if len(frames) > 1:
        notes.append(f"{len(frames)} frames without a place in the patient: read as independent pictures")
    decoded = decode(frames, name, notes, may_fail=policy != "error" and len(frames) > 1)
    if decoded.failed:
        notes.append(_damaged(decoded, "empty frames in their place"))
    has_place = header.orientation is not None
    return _finished(decoded, affine, name, notes, frames, VolumeMeta(is_2d=not has_place), normal=_normal(header))


def _normal(header: ImageHeader) -> list[float] | None:
    """RAS unit vector of a slice's normal."""
    if header.orientation is None:
        return None
    x, y, z = np.cross(header.orientation[:3], header.orientation[3:])
    return [-float(x), -float(y), float(z)]


def _stack(images: Headers, policy: Policy, name: str, notes: list[str]) -> LoadedVolume:
    stack = measure_stack(images, name)
    unsolved = stack.problems and policy in ("error", "split")  # what is chosen of a split is regular, or cannot be
    if unsolved or any(policy not in problem.policies for problem in stack.problems):
        raise stack.refusal(name, policy)
    if policy == "resample" and stack.problems:
        return _resampled(stack, name, notes)
    return _in_slots(stack, policy, name, notes)


def _in_slots(stack: Stack, policy: Policy, name: str, notes: list[str]) -> LoadedVolume:
    """Every slice as it is, at its place; empty ones where positions are missing."""
    slots = np.arange(len(stack.headers)) if stack.slots is None else stack.slots
    layout: list[ImageHeader | None] = [None] * (int(slots[-1]) + 1)
    for slot, header in zip(slots, stack.headers, strict=True):
        layout[int(slot)] = header
    affine, meta = stack.affine, VolumeMeta(is_2d=False)
    decoded = decode(layout, name, notes, may_fail=policy != "error")
    if decoded.failed and policy == "resample":
        good = [header for k, header in enumerate(layout) if header is not None and k not in decoded.failed]
        notes.append(_damaged(decoded, "left out"))
        if len(good) > 1:
            return _resampled(measure_stack(good, name), name, notes)
    if decoded.failed and policy == "split":
        first, end = _longest_whole(decoded)
        notes.append(_damaged(decoded, f"slices {first} to {end - 1} between them were read"))
        decoded, layout = decoded.part(first, end), layout[first:end]
        affine[:3, 3] += affine[:3, 2] * first
        stack = replace(stack, headers=stack.headers[first:end])
    elif decoded.failed:
        notes.append(_damaged(decoded, "empty slices in their place"))
    _note_kept(stack, layout, meta, notes)
    kept = [None if k in decoded.failed else header for k, header in enumerate(layout)]
    if stack.slots is None:
        rows, columns = stack.headers[0].rows, stack.headers[0].columns
        middle = stack.affine[:3, :2] @ [(columns - 1) / 2, (rows - 1) / 2]
        meta["slice_positions"] = (stack.positions * [-1, -1, 1] + middle).tolist()
    return _finished(decoded, affine, name, notes, kept, meta, normal=_normal(stack.headers[0]))


def _note_kept(stack: Stack, layout: Sequence[ImageHeader | None], meta: VolumeMeta, notes: list[str]) -> None:
    """Say what was kept irregular."""
    empty = sum(header is None for header in layout)
    if empty:
        notes.append(f"{empty} missing slice(s) are empty: never scored")
    if "tilt" in stack.kinds:
        meta["sheared"] = True
        notes.append(next(p.given for p in stack.problems if p.kind == "tilt") + " is kept in the affine")
    if stack.slots is None:
        meta["uneven"] = True
        notes.append(
            "slices are unevenly spaced and kept one by one: millimetres along the normal are approximate "
            f"(mean step {np.linalg.norm(stack.step):.3f} mm, from {np.diff(stack.along).min():.3f} to "
            f"{np.diff(stack.along).max():.3f} mm)"
        )


def _damaged(decoded: Decoded, what: str) -> str:
    names = sorted({problem.must for problem in decoded.failed.values()})
    more = ", …" if len(names) > 3 else ""
    return f"{len(decoded.failed)} damaged slice(s), {what}: {'; '.join(names[:3])}{more}"


def _longest_whole(decoded: Decoded) -> tuple[int, int]:
    """The longest stretch without a damaged slice, the first of equal ones."""
    edges = [-1, *sorted(decoded.failed), decoded.array.shape[3]]
    first, end = max(pairwise(edges), key=lambda pair: (pair[1] - pair[0], -pair[0]))
    return first + 1, end


def _resampled(stack: Stack, name: str, notes: list[str]) -> LoadedVolume:
    if any("resample" not in problem.policies for problem in stack.problems):
        raise stack.refusal(name, "resample")
    decoded = decode(stack.headers, name, notes, may_fail=True)
    if decoded.failed:
        good = [header for k, header in enumerate(stack.headers) if k not in decoded.failed]
        notes.append(_damaged(decoded, "left out"))
        if len(good) < 2:
            raise next(iter(decoded.failed.values()))
        stack = measure_stack(good, name)
        decoded = replace(decoded, array=np.delete(decoded.array, sorted(decoded.failed), axis=3), failed={})
    array, affine = resample(decoded.array, stack, name)
    said = "; ".join(problem.given for problem in stack.problems) or "damaged slices left out"
    notes.append(f"resampled onto a regular grid of {np.linalg.norm(affine[:3, 2]):.3f} mm: {said}")
    if empty := len(blank_slices(array)):
        notes.append(f"{empty} slice(s) in gaps are empty: never scored")
    meta = VolumeMeta(is_2d=False, resampled=True)
    centres = _source_centres(stack)
    meta["slice_positions"] = centres
    return _finished(
        replace(decoded, array=array), affine, name, notes, stack.headers, meta, normal=_normal(stack.headers[0])
    )


def _source_centres(stack: Stack) -> list[list[float]]:
    """RAS mm centre of every source slice, by its own position."""
    first = stack.headers[0]
    middle = stack.affine[:3, :2] @ [(first.columns - 1) / 2, (first.rows - 1) / 2]
    centres: list[list[float]] = (stack.positions * [-1, -1, 1] + middle).tolist()
    return centres


def _finished(
    decoded: Decoded,
    affine: Affine,
    name: str,
    notes: list[str],
    slices: Sequence[ImageHeader | None],
    meta: VolumeMeta,
    *,
    normal: list[float] | None,
) -> LoadedVolume:
    """Fill what is blank, complete the metadata and pass the checks that every volume passes."""
    first = next(header for header in slices if header is not None)
    shape = (decoded.array.shape[1], decoded.array.shape[2], decoded.array.shape[3])
    nominal = slice_centres(affine, shape, 2)
    inverted = first.photometric == "MONOCHROME1"
    blank = blank_slices(decoded.array)
    if blank and len(blank) < shape[2]:
        meta["empty_positions"] = nominal[blank].tolist()
    fill_blank(decoded.array, bright=inverted and first.modality != "CT")
    nameless = sum(header is not None and not header.sop_uid for header in slices)
    if nameless:
        notes.append(f"{nameless} image(s) without SOPInstanceUID: DICOM results cannot refer to them")
    if first.tile:
        meta["tiled"] = True
    if meta.get("uneven"):
        meta["slice_nominal_positions"] = nominal.tolist()
    complete = VolumeMeta(
        **{
            "slice_positions": nominal.tolist(),
            **meta,
            "source_format": "dicom",
            "source_name": name,
            "content_sha256": decoded.sha256,
            "modality": first.modality,
            **({"sequence": first.sequence} if first.sequence else {}),
            "is_rgb": decoded.array.shape[0] == 3,
            "display_inverted": inverted,
            "default_window": decoded.window,
            "slice_normal": normal,
            "slice_uids": ["" if header is None else header.sop_uid for header in slices],
            "slice_files": ["" if header is None else str(header.path.absolute()) for header in slices],
            "slice_frames": [0 if header is None else header.frame for header in slices],
        }
    )
    return finish(decoded.array, affine, complete, list(dict.fromkeys(notes)))


__all__ = ["CONVERT", "check_policy", "list_series", "read_dicom"]
