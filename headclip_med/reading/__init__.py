"""Files on disk → a volume in patient space, channel first, RAS millimetres; as MONAI's MetaTensor where torch is."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from headclip_med.base.volume import LoadedVolume, volume_meta
from headclip_med.reading.volumes import list_series, load, load_volume, read_volume

if TYPE_CHECKING:
    from headclip_med.reading.dicom.series import SeriesInfo
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
    "volume_meta",
]

_LAZY = {
    "DicomSeriesReader": "headclip_med.reading.monai_readers",
    "NiftiReader": "headclip_med.reading.monai_readers",
    "RasterReader": "headclip_med.reading.monai_readers",
    "SeriesInfo": "headclip_med.reading.dicom.series",
    "SitkReader": "headclip_med.reading.monai_readers",
    "VolumeReader": "headclip_med.reading.monai_readers",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'headclip_med.reading' has no attribute {name!r}")
