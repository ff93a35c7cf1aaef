"""A result folder → layers: the anomaly map as an image, the mask above it as labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from headclip_med.errors import InputError
from headclip_med.geometry import check_affine
from headclip_med.types import RESEARCH_ONLY
from headclip_med.writing.atomic import RECORD_NAME
from headclip_med.writing.record import SCHEMA_VERSION, ResultRecord, load_result

from .layers import display_grid

_SCHEMA_NAME = SCHEMA_VERSION.rpartition("/")[0].encode()

# Additive: black where nothing was found, so that anatomy below stays as it is.
_MAP_LOOK: dict[str, Any] = {"contrast_limits": (0.0, 1.0), "colormap": "inferno", "blending": "additive"}
_MASK_LOOK: dict[str, Any] = {"opacity": 0.4}

LayerTuple = tuple[Any, dict[str, Any], str]


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerTuple]] | None:
    """napari's hook: our reader for a result folder or its ``result.json``, None for anything else."""
    return read_result_folder if isinstance(path, str) and _is_ours(_folder(path) / RECORD_NAME) else None


def read_result_folder(path: str | Sequence[str]) -> list[LayerTuple]:
    """Layers of one result; its files are compared with the checksums in its record first.

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
    layers = [_layer(map_path, record, np.float32, _MAP_LOOK, "image")]
    if mask_path is not None:
        layers.append(_layer(mask_path, record, np.uint8, _MASK_LOOK, "labels"))
    return layers


def _folder(path: str) -> Path:
    return Path(path).parent if Path(path).name == RECORD_NAME else Path(path)


def _is_ours(record: Path) -> bool:
    """Other programs write files called ``result.json`` too; ours name their schema in the first line."""
    try:
        with record.open("rb") as file:
            return _SCHEMA_NAME in file.read(256)
    except OSError:
        return False


def _layer(path: Path, record: ResultRecord, dtype: type, look: dict[str, Any], kind: str) -> LayerTuple:
    image: Any = nib.load(path)
    array: NDArray[Any] = np.asarray(image.dataobj, dtype=dtype)
    grid = display_grid(check_affine(image.affine, path.name), (array.shape[0], array.shape[1], array.shape[2]))
    place = grid.layer_kwargs(
        source=record.source.name,
        plane=record.planes[0],
        pred_score=record.pred_score,
        threshold=record.threshold,
        research_use_only=RESEARCH_ONLY,
    )
    name = f"{record.source.name} {path.name.removesuffix('.nii.gz').replace('_', ' ')}"
    return grid.view(array), {"name": name, **look, **place}, kind
