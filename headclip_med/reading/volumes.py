"""Files → a volume in patient space: the reader is chosen by what a file holds, not by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headclip_med.base.errors import InputError, readable

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from headclip_med.base.volume import LoadedVolume
    from headclip_med.reading.dicom.series import SeriesInfo


def read_volume(
    source: str | Path | Sequence[str | Path],
    *,
    series: str | int | None = None,
    time: int | None = None,
    on_irregular: str = "error",
) -> MetaTensor:
    """Read a volume or 2-D image of any supported format, told apart by content.

    Args:
        source: A file (NIfTI, NRRD, MetaImage, DICOM, DICOMDIR, PNG, JPEG, TIFF, BMP), a folder with a DICOM series,
            a zip archive of one of these, or a list: the DICOM files of one series, else sequences of one patient on
            one grid, stacked as channels.
        series: For DICOM: SeriesInstanceUID or either end of it, SeriesNumber, or place ``#n`` in
            :func:`list_series`.
        time: Which volume of a 4-D file (page of a TIFF, frame of a cine), 0-based.
        on_irregular: What to do with a DICOM series that is no regular grid (gaps, uneven steps, gantry tilt) or has
            damaged slices: ``error``, ``split`` it into regular stretches and read one, ``resample`` it, or ``keep``
            its slices as they are, with empty ones where positions are missing and the tilt in the affine.

    Returns:
        MetaTensor ``(C, I, J, K)`` float32 with a float64 ``affine`` (voxel index → RAS mm) and in ``.meta``
        the keys of :class:`headclip_med.base.types.VolumeMeta`, those without a value left out. Lists among them
        cannot be in a batch: for a ``DataLoader`` use ``LoadImaged`` with one of the readers of this package, whose
        metadata can be, and of which :func:`volume_meta` makes the same again.

    Raises:
        InputError: whatever cannot be read as it is, with what must be, what was given and what to do.
    """
    from headclip_med.base.volume import to_metatensor

    return to_metatensor(load_volume(source, series=series, time=time, on_irregular=on_irregular))


def load_volume(
    source: str | Path | Sequence[str | Path],
    *,
    series: str | int | None = None,
    time: int | None = None,
    on_irregular: str = "error",
) -> LoadedVolume:
    """Read a volume as :func:`read_volume` does, as numpy array, affine and metadata, without torch.

    Args:
        source: A file, a folder or a list, as there.
        series: Which series of a DICOM folder.
        time: Which volume of a 4-D file, 0-based.
        on_irregular: What to do with irregular DICOM series.

    Returns:
        ``(C, I, J, K)`` float32, its affine and its metadata.

    Raises:
        InputError: as of :func:`read_volume`.
    """
    from headclip_med.reading.checks import stack

    if isinstance(source, (str, Path)):
        return load(source, series=series, time=time, on_irregular=on_irregular)
    if not source:
        raise InputError("The input must name at least one file", "an empty list")
    files = _one_series(source)
    if files:
        series_volume: LoadedVolume = _reader("dicom")(files, series=series, time=time, on_irregular=on_irregular)
        return series_volume
    volumes = [load(item, series=series, time=time, on_irregular=on_irregular) for item in source]
    _check_one_patient(volumes)
    return stack(volumes)


def _check_one_patient(volumes: Sequence[LoadedVolume]) -> None:
    """Refuse sequences whose DICOM headers name several patients."""
    files = [next(filter(None, volume.meta.get("slice_files", [])), "") for volume in volumes]
    if sum(map(bool, files)) < 2:
        return
    from headclip_med.reading.dicom.images import read_headers
    from headclip_med.reading.dicom.series import are_of_one_patient

    if not are_of_one_patient([header for file in files if file for header in (read_headers(Path(file)) or ())[:1]]):
        raise InputError(
            "The images of a list must be sequences of one patient",
            "DICOM headers that name several",
            "Give those of one patient, or convert them to NIfTI first where one has several names",
        )


def load(
    source: str | Path, *, series: str | int | None = None, time: int | None = None, on_irregular: str = "error"
) -> LoadedVolume:
    """Read one file or folder of :func:`load_volume`.

    Args:
        source: A file or a folder.
        series: Which series of a DICOM folder.
        time: Which volume of a 4-D file, 0-based.
        on_irregular: What to do with irregular DICOM series.

    Returns:
        ``(C, I, J, K)`` float32, its affine and its metadata.

    Raises:
        InputError: as of :func:`read_volume`, or too little memory.
    """
    from headclip_med.reading.content import existing_path

    path = existing_path(source)
    try:
        return _load(path, series, time, on_irregular)
    except MemoryError as problem:
        raise InputError(
            f"{path.name} must fit in memory", "too little of it", "Crop or resample it first"
        ) from problem


def _load(path: Path, series: str | int | None, time: int | None, on_irregular: str) -> LoadedVolume:
    from headclip_med.reading.content import identify, name_warning

    dicom_options = {"series": series, "on_irregular": on_irregular}
    if path.is_dir():
        found_series: LoadedVolume = _reader("dicom")(path, time=time, **dicom_options)
        return found_series
    found = identify(path)
    if found == "zip":
        return _load_archive(path, time=time, **dicom_options)
    volume: LoadedVolume = _reader(found)(path, time=time, **(dicom_options if found == "dicom" else {}))
    notes = [*name_warning(path, found), *volume.meta["reader_warnings"]]
    if series is not None and found != "dicom":
        notes.append("only DICOM has series: the series option was ignored")
    return replace(volume, meta={**volume.meta, "reader_warnings": notes})


def _load_archive(path: Path, **options: Any) -> LoadedVolume:
    """The DICOM series, or the one image, in a zip archive; it is called by the archive's name."""
    from headclip_med.reading.archive import content_of

    content = content_of(path)
    if content.is_dir():
        found_series: LoadedVolume = _reader("dicom")(content, name=path.name, **options)
        return found_series
    volume = load(content, **options)
    return replace(volume, meta={**volume.meta, "source_name": readable(path.name)})


def _one_series(source: Sequence[str | Path]) -> list[Path] | None:
    """The paths of a list when all are DICOM files of one series, which is a volume rather than channels."""
    from headclip_med.reading.content import existing_path, is_format

    paths = [existing_path(item) for item in source]
    if len(paths) < 2 or not all(path.is_file() and is_format(path, "dicom") for path in paths):
        return None
    from headclip_med.reading.dicom.images import read_headers

    uids = {header.series_uid for path in paths for header in read_headers(path) or ()}
    return paths if len(uids) == 1 and "" not in uids else None


def list_series(source: str | Path, on_irregular: str = "error") -> list[SeriesInfo]:
    """List the DICOM series that ``series=`` can choose from, ordered by series number.

    Args:
        source: A folder, DICOMDIR, zip archive or file.
        on_irregular: With ``split`` the regular stretches of irregular series are listed.

    Returns:
        The series.

    Raises:
        InputError: a file that is no DICOM.
    """
    from headclip_med.reading.archive import content_of
    from headclip_med.reading.content import existing_path, is_format
    from headclip_med.reading.dicom.reader import list_series as listed

    path = existing_path(source)
    if path.is_file() and is_format(path, "zip"):
        path = content_of(path)
    if path.is_file() and not is_format(path, "dicom"):
        raise InputError("The input must be a folder, a DICOM file or a zip archive of these", path.name)
    return listed(path, on_irregular)


def _reader(found: str) -> Any:
    """The function that reads one format; its library is imported only now."""
    module, name = {
        "nifti": ("nifti", "read_nifti"),
        "nrrd": ("sitk", "read_sitk"),
        "mha": ("sitk", "read_sitk"),
        "dicom": ("dicom.reader", "read_dicom"),
    }.get(found, ("raster", "read_raster"))
    return getattr(import_module(f"headclip_med.reading.{module}"), name)
