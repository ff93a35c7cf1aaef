"""Files on disk → a volume in patient space, channel first, RAS millimetres; as MONAI's MetaTensor where torch is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headclip_med.errors import InputError

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from headclip_med.reading.base import LoadedVolume
    from headclip_med.reading.dicom_series import SeriesInfo
    from headclip_med.reading.monai_readers import (
        DicomSeriesReader,
        NiftiReader,
        RasterReader,
        SitkReader,
        VolumeReader,
    )

__all__ = [
    "DicomSeriesReader",
    "LoadedVolume",
    "NiftiReader",
    "RasterReader",
    "SeriesInfo",
    "SitkReader",
    "VolumeReader",
    "list_series",
    "load",
    "load_volume",
    "read_volume",
]

_LAZY = {
    "DicomSeriesReader": "headclip_med.reading.monai_readers",
    "LoadedVolume": "headclip_med.reading.base",
    "NiftiReader": "headclip_med.reading.monai_readers",
    "RasterReader": "headclip_med.reading.monai_readers",
    "SeriesInfo": "headclip_med.reading.dicom_series",
    "SitkReader": "headclip_med.reading.monai_readers",
    "VolumeReader": "headclip_med.reading.monai_readers",
}


def read_volume(
    source: str | Path | Sequence[str | Path], *, series: str | int | None = None, time: int | None = None
) -> MetaTensor:
    """Read a volume or 2-D image of any supported format, told apart by content.

    Args:
        source: a file (NIfTI, NRRD, MetaImage, DICOM, PNG, JPEG, TIFF, BMP), a folder with a DICOM series,
            or a list of these: sequences of one patient on one grid, stacked as channels.
        series: for DICOM: SeriesInstanceUID or either end of it, SeriesNumber, or place ``#n`` in
            :func:`list_series`.
        time: which volume of a 4-D file (page of a TIFF), 0-based.

    Returns:
        MetaTensor ``(C, I, J, K)`` float32 with a float64 ``affine`` (voxel index → RAS mm) and in ``.meta``
        the keys of :class:`headclip_med.types.VolumeMeta`, those without a value left out.

    Raises:
        InputError: whatever cannot be read as it is; says what must be, what was given and what to do.
    """
    from headclip_med.reading.base import to_metatensor

    return to_metatensor(load_volume(source, series=series, time=time))


def load_volume(
    source: str | Path | Sequence[str | Path], *, series: str | int | None = None, time: int | None = None
) -> LoadedVolume:
    """As :func:`read_volume`, but as numpy array, affine and metadata: needs no torch."""
    from headclip_med.reading.base import stack

    if isinstance(source, (str, Path)):
        return load(source, series=series, time=time)
    if not source:
        raise InputError("The input must name at least one file", "an empty list")
    return stack([load(item, series=series, time=time) for item in source])


def load(source: str | Path, *, series: str | int | None = None, time: int | None = None) -> LoadedVolume:
    """One file or folder of :func:`load_volume`."""
    from headclip_med.reading.content import existing_path, identify, name_warning

    path = existing_path(source)
    if path.is_dir():
        return _reader("dicom")(path, series=series, time=time)
    found = identify(path)
    more = {"series": series} if found == "dicom" else {}
    volume: LoadedVolume = _reader(found)(path, time=time, **more)
    notes = [*name_warning(path, found), *volume.meta["reader_warnings"]]
    if series is not None and found != "dicom":
        notes.append("only DICOM has series: the series option was ignored")
    return replace(volume, meta={**volume.meta, "reader_warnings": notes})


def list_series(folder: str | Path) -> list[SeriesInfo]:
    """The DICOM series below ``folder``, ordered by series number: what ``series=`` can choose from."""
    from headclip_med.reading.content import existing_path
    from headclip_med.reading.dicom import list_series as listed

    path = existing_path(folder)
    if not path.is_dir():
        raise InputError("The input must be a folder", path.name)
    return listed(path)


def _reader(found: str) -> Any:
    """The function that reads one format; its library is imported only now."""
    module, name = {
        "nifti": ("nifti", "read_nifti"),
        "nrrd": ("sitk", "read_sitk"),
        "mha": ("sitk", "read_sitk"),
        "dicom": ("dicom", "read_dicom"),
    }.get(found, ("raster", "read_raster"))
    return getattr(import_module(f"headclip_med.reading.{module}"), name)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'headclip_med.reading' has no attribute {name!r}")
