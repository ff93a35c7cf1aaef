"""Folders on disk → the cases that can be reviewed, each checked against its own hashes, and one case in memory."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.errors import HeadclipError, InputError, readable
from headclip_med.base.files import RECORD_NAME, sha256_file
from headclip_med.base.geometry import SliceFrame, slice_frame
from headclip_med.base.types import Affine
from headclip_med.review.model import ResultLink
from headclip_med.writing.record import FindingRecord, ResultRecord, load_result, present_finding

_RUN_NAME = "run.json"

# The record's affine is exact; the map's header keeps float32.
_AFFINE_TOLERANCE = 1e-3

_AGAIN = "Run the prediction again"

# Size and time of change of a file: enough to know that nobody has touched it.
Stamp = tuple[int, int]


@dataclass(frozen=True)
class FoundResult:
    """One result folder, usable or not.

    Attributes:
        key: unique among the results found: the folder's name, with a number where several share it.
        link: hashes that a review belongs to.
        record: what was found. Both None where ``problem`` says why not.
    """

    key: str
    folder: Path
    record: ResultRecord | None = None
    link: ResultLink | None = None
    problem: str | None = None


@dataclass(frozen=True, eq=False)
class CaseData:
    """One case in memory.

    Attributes:
        volume_map: ``(I, J, K)`` float32 in [0, 1], read-only.
        affine: voxel → RAS mm, as the source has it.
        frame: how slices of the primary plane are cut.
        codes: of the source's header, for files written on its grid.
        stamps: record and map as they lay on the disk when they were read.
    """

    key: str
    folder: Path
    record: ResultRecord
    link: ResultLink
    volume_map: NDArray[np.float32]
    affine: Affine
    frame: SliceFrame
    codes: dict[str, int]
    stamps: dict[Path, Stamp]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the voxels along the array axes."""
        i, j, k = self.volume_map.shape
        return i, j, k

    @property
    def is_plain(self) -> bool:
        """Tell whether the source is a picture without millimetres and patient."""
        return self.record.source.is_2d

    def present(self, finding: FindingRecord) -> FindingRecord:
        """Bring a finding of a review to the present form: an older one has no places in voxels.

        Args:
            finding: a finding of a review.

        Returns:
            The finding with its places in voxels, itself where it has them already.
        """
        if finding.centroid_voxel is not None:
            return finding
        return FindingRecord.model_validate(present_finding(dict(finding), self.affine, self.is_plain))

    def centre(self, finding: FindingRecord) -> tuple[float, float, float]:
        """Locate the middle of a finding of a review.

        Args:
            finding: a finding of a review.

        Returns:
            Its centroid in voxel indices along the array axes.
        """
        voxel = self.present(finding).centroid_voxel
        assert voxel is not None
        return voxel

    @property
    def axis(self) -> int:
        """Return the array axis along which the slices of the primary plane are stacked."""
        return self.frame.axis


def find_results(places: Sequence[str | Path]) -> list[FoundResult]:
    """Find the results in the folders given, each of them a result, or a folder with results at any depth.

    A result that is incomplete, altered or without a map is listed with the reason, as are the cases that ``run.json``
    of a cohort says have failed.

    Args:
        places: folders with results at any depth.

    Returns:
        The results in the order of ``places``, usable or with a ``problem``.

    Raises:
        InputError: a place that does not exist or holds no result at all.
    """
    folders: dict[Path, str | None] = {}
    for place in places:
        path = Path(place).expanduser()
        path = path.parent if path.name == RECORD_NAME else path
        found = dict(_below(path))
        if not found:
            raise InputError(
                "A folder to review must hold a result, or folders with results",
                f"'{path.name or path}', {'without any' if path.is_dir() else 'which is no folder'}",
                "Give the folder that predict --out wrote",
            )
        for folder, problem in found.items():
            folders.setdefault(folder, problem)
    keys = _keys(folders)
    return [_checked(keys[folder], folder, problem) for folder, problem in folders.items()]


def load_found(found: FoundResult) -> CaseData:
    """Read a result's map, and check its files once more.

    Args:
        found: one of those that were found.

    Returns:
        The case in memory, its map read-only.

    Raises:
        InputError: it has changed since or is gone, or map and record do not fit.
    """
    try:
        record, map_path, _ = load_result(found.folder)
        link = link_of(found.folder, record)
        if map_path is None or link != found.link:
            raise _changed(found.key)
        stamps = {path.absolute(): _stamp(path) for path in (found.folder / RECORD_NAME, map_path)}
        image = _read_map(map_path, link.map_sha256, found.key)
    except OSError as error:
        raise InputError(
            f"The result of '{found.key}' must be readable", error.strerror or type(error).__name__, "Bring it back"
        ) from error
    values = np.ascontiguousarray(image.dataobj, dtype=np.float32)
    values.setflags(write=False)  # what is judged is what was predicted, whoever holds this array
    affine = np.array(record.source.affine, dtype=np.float64)
    if values.shape != record.source.shape or not np.allclose(image.affine, affine, atol=_AFFINE_TOLERANCE):
        raise InputError("A map must lie on its source's grid", f"another one in '{found.key}'", _AGAIN)
    codes = {"qform_code": int(image.header["qform_code"]), "sform_code": int(image.header["sform_code"])}
    frame = slice_frame(affine, record.planes[0])
    return CaseData(found.key, found.folder, record, link, values, affine, frame, codes, stamps)


def check_unaltered(data: CaseData) -> None:
    """Make sure that record and map on the disk are still those in memory. Reads them only where somebody touched them.

    Args:
        data: the case in memory.

    Raises:
        InputError: they were altered, moved or deleted.
    """
    wanted = dict(zip(data.stamps, (data.link.result_sha256, data.link.map_sha256), strict=True))
    for path, stamp in data.stamps.items():
        try:
            same = _stamp(path) == stamp or sha256_file(path) == wanted[path]
        except OSError as error:
            raise InputError(
                f"The result of '{data.key}' must stay where it is while it is reviewed",
                f"{path.name}: {error.strerror or type(error).__name__}",
                "Bring it back; nothing can be decided without it",
            ) from error
        if not same:
            raise _changed(data.key)


def link_of(folder: Path, record: ResultRecord) -> ResultLink:
    """Collect the hashes that tie a review to the result in ``folder``.

    Args:
        folder: of the result.
        record: what the prediction recorded.

    Returns:
        The link, with the SHA-256 of ``result.json`` as it lies in the folder now.
    """
    return ResultLink(
        name=readable(folder.resolve().name),
        result_sha256=sha256_file(folder / RECORD_NAME),
        map_sha256=record.files["map"].sha256,
        source_name=record.source.name,
        content_sha256=record.source.content_sha256,
        shape=record.source.shape,
    )


def _changed(key: str) -> InputError:
    return InputError("A result must stay as it is while it is reviewed", f"'{key}' has changed", _AGAIN)


def _stamp(path: Path) -> Stamp:
    seen = path.stat()
    return seen.st_size, seen.st_mtime_ns


def _read_map(path: Path, sha256: str, key: str) -> Any:
    """The image in exactly the bytes that have this hash."""
    import nibabel as nib

    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise _changed(key)
    return nib.Nifti1Image.from_bytes(gzip.decompress(content) if path.suffix == ".gz" else content)


def _below(path: Path) -> Iterator[tuple[Path, str | None]]:
    """Result folders, with a reason where it is known already that there is none."""
    if not path.is_dir():
        return
    if (path / RECORD_NAME).is_file():
        yield path, None
        return
    with_record = [file.parent for file in sorted(path.rglob(RECORD_NAME)) if not _hidden(file, path)]
    yield from ((folder, None) for folder in with_record if _is_ours(folder / RECORD_NAME))
    yield from _unfinished(path, with_record)


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _is_ours(record: Path) -> bool:
    """Other programs write files of that name too. One that cannot be read is listed with the reason."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        return str(content["schema_version"]).startswith("headclip_med.result/")
    except (KeyError, TypeError):
        return False
    except (OSError, ValueError):
        return True


def _unfinished(path: Path, with_record: list[Path]) -> Iterator[tuple[Path, str]]:
    """Folders with a map but no record, and the cases that a cohort's record says have failed."""
    seen = set(with_record)
    for map_path in sorted(path.rglob("anomaly_map.nii*")):
        folder = map_path.parent
        if folder not in seen and not _hidden(map_path, path):
            seen.add(folder)
            yield folder, f"the result is not complete: no {RECORD_NAME} in it"
    names = {folder.name for folder in seen}
    for name, reason in _failed(path / _RUN_NAME):
        if name not in names:
            yield path / name, reason


def _failed(run: Path) -> Iterator[tuple[str, str]]:
    try:
        cases = json.loads(run.read_text(encoding="utf-8"))["cases"]
        yield from ((str(c["name"]), f"no result: {c['error']}") for c in cases if c["status"] in ("failed", "stopped"))
    except (OSError, ValueError, KeyError, TypeError):
        return


def _keys(folders: Iterable[Path]) -> dict[Path, str]:
    keys: dict[Path, str] = {}
    for folder in folders:
        name, number = readable(folder.resolve().name), 2
        key = name
        while key in keys.values():
            key, number = f"{name}_{number}", number + 1
        keys[folder] = key
    return keys


def _checked(key: str, folder: Path, problem: str | None) -> FoundResult:
    if problem is not None:
        return FoundResult(key, folder, problem=problem)
    try:
        record, map_path, _ = load_result(folder)
        if map_path is None:
            raise InputError(
                "A result must hold an anomaly map to be reviewed", "none", f"{_AGAIN} with --format nifti"
            )
        return FoundResult(key, folder, record, link_of(folder, record))
    except HeadclipError as error:
        return FoundResult(key, folder, problem=str(error))
    except OSError as error:
        return FoundResult(key, folder, problem=f"the result cannot be read ({type(error).__name__})")
