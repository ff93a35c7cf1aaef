"""Files → layers: volumes in patient space, and our result folders. What is neither is left to other readers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from headclip_med.base.errors import InputError, readable
from headclip_med.base.files import RECORD_NAME
from headclip_med.base.geometry import check_affine
from headclip_med.base.types import RESEARCH_ONLY
from headclip_med.reading import list_series, load_volume
from headclip_med.reading.content import Format, is_format
from headclip_med.writing.record import SCHEMA_VERSION, ResultRecord, load_result

from ..layers.grid import MAP_LOOK, MASK_LOOK, display_grid
from ..layers.volume import LayerTuple, volume_layers

Read = Callable[["str | Sequence[str]"], list[LayerTuple]]

_SCHEMA_NAME = SCHEMA_VERSION.rpartition("/")[0].encode()
_VOLUME_FORMATS: tuple[Format, ...] = ("nifti", "nrrd", "mha", "dicom")
_LOOKED_AT = 50  # files of a folder, until one of them is DICOM
_MOST_SERIES = 12  # opened at once from one folder


def get_reader(path: str | Sequence[str]) -> Read | None:
    """Find our reader for a result folder or its ``result.json``.

    Args:
        path: of a file or folder, or several.

    Returns:
        The reader, None for anything else.
    """
    return read_result_folder if isinstance(path, str) and _is_ours(_folder(path) / RECORD_NAME) else None


def get_volume_reader(path: str | Sequence[str]) -> Read | None:
    """Find the reader for one NIfTI, NRRD, MetaImage or DICOM file, or several of them, by content.

    Declined: 4-D files, plain pictures and whatever else has no single place in patient space.

    Args:
        path: of a file or folder, or several.

    Returns:
        The reader, None where any of the paths is something else.
    """
    paths = [Path(path)] if isinstance(path, str) else [Path(one) for one in path]
    return read_volume_files if paths and all(_is_volume(one) for one in paths) else None


def get_dicom_reader(path: str | Sequence[str]) -> Read | None:
    """Find the reader for a folder with DICOM images in it.

    Args:
        path: of a file or folder, or several.

    Returns:
        The reader where one of the folder's first 50 files is DICOM, None for a result folder and for anything else.
    """
    if not isinstance(path, str) or not Path(path).is_dir() or _is_ours(Path(path) / RECORD_NAME):
        return None
    looked_at = islice(_files(Path(path)), _LOOKED_AT)
    return read_dicom_folder if any(is_format(file, "dicom") for file in looked_at) else None


def read_volume_files(path: str | Sequence[str]) -> list[LayerTuple]:
    """Read volumes, one after the other. Errors in words.

    Args:
        path: of one file, or of several.

    Returns:
        The image layers of each file in turn: one for each channel, or a single one in colour.
    """
    paths = [path] if isinstance(path, str) else list(path)
    return [layer for one in paths for layer in volume_layers(load_volume(one))]


def read_dicom_folder(path: str | Sequence[str]) -> list[LayerTuple]:
    """Read every series of a folder that is a volume, each as layers of its own.

    Args:
        path: of the folder.

    Returns:
        The image layers of each series in turn.

    Raises:
        InputError: no series, too many to open at once, or none that is a volume.
    """
    folder = Path(str(path))
    found = list_series(folder)
    if len(found) > _MOST_SERIES:
        raise InputError(
            f"A DICOM folder must hold at most {_MOST_SERIES} series to be opened at once",
            f"{len(found)} series",
            "Open the folder of one series",
        )
    layers, problem = [], None
    for series in found:
        try:
            layers += volume_layers(load_volume(folder, series=f"#{series.number}"))
        except InputError as error:
            problem = error
    if not layers:
        raise problem or InputError("The folder must hold a DICOM series", "none")
    return layers


def read_result_folder(path: str | Sequence[str]) -> list[LayerTuple]:
    """Read the layers of one result. Its files are compared with the checksums in its record first.

    Args:
        path: of the folder, or of its ``result.json``.

    Returns:
        The anomaly map as an image, then its mask as labels where there is one.

    Raises:
        InputError: several paths at once, an incomplete or altered folder, or one without a map.
    """
    if not isinstance(path, str):
        raise InputError("Result folders must be opened one by one", f"{len(path)} paths")
    record, map_path, mask_path = load_result(_folder(path))
    if map_path is None:
        raise InputError(
            "A result folder must hold an anomaly map to be shown",
            "a result written without it",
            "Run the prediction again with --format nifti",
        )
    layers = [_layer(map_path, record, np.float32, MAP_LOOK, "image")]
    if mask_path is not None:
        layers.append(_layer(mask_path, record, np.uint8, MASK_LOOK, "labels"))
    return layers


def _folder(path: str) -> Path:
    return Path(path).parent if Path(path).name == RECORD_NAME else Path(path)


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*")) if file.is_file())


def _is_ours(record: Path) -> bool:
    """Other programs write files called ``result.json`` too. Ours name their schema in the first line."""
    try:
        with record.open("rb") as file:
            return _SCHEMA_NAME in file.read(256)
    except OSError:
        return False


def _is_volume(path: Path) -> bool:
    if not path.is_file() or not is_format(path, *_VOLUME_FORMATS):
        return False
    return not is_format(path, "nifti") or _is_single(path)


def _is_single(path: Path) -> bool:
    """Whether a NIfTI file holds one volume. An unreadable header is left to the reader, which has words for it."""
    try:
        image: Any = nib.load(path)
        shape = image.shape
    except Exception:
        return True
    return len(shape) >= 2 and all(size == 1 for size in shape[3:])


def _layer(path: Path, record: ResultRecord, dtype: type, look: dict[str, Any], kind: str) -> LayerTuple:
    image: Any = nib.load(path)
    array: NDArray[Any] = np.asarray(image.dataobj, dtype=dtype)
    shape = (array.shape[0], array.shape[1], array.shape[2])
    grid = display_grid(check_affine(image.affine, path.name), shape, record.source.is_2d)
    place = grid.layer_kwargs(
        source=record.source.name,
        plane=record.planes[0],
        pred_score=record.pred_score,
        threshold=record.threshold,
        research_use_only=RESEARCH_ONLY,
    )
    name = f"{readable(record.source.name)} {path.name.removesuffix('.nii.gz').replace('_', ' ')}"
    return grid.view(array), {"name": name, **look, **place}, kind
