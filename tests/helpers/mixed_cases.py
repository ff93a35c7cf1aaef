"""Ten cases of one review that have nothing in common: planes, grids, units, colours, sources that are gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image
from writing_phantom import make_result, oblique_affine

from headclip_med.base.files import sha256_file
from headclip_med.base.types import Plane
from headclip_med.engine.volume_map import find_components
from headclip_med.reading import load_volume
from headclip_med.review import Session
from headclip_med.writing import write_result


@dataclass(frozen=True)
class Kind:
    """What one case is like; ``peaks`` are voxels of blobs, the first one highest."""

    name: str
    shape: tuple[int, int, int]
    steps: tuple[float, float, float] = (1.0, 1.0, 1.0)
    axes: str = "LPS"
    plane: Plane = "axial"
    modality: str = "MR"
    channels: int = 1
    picture: bool = False
    oblique: bool = False
    source: bool = True
    heights: tuple[float, ...] = (0.95, 0.8)
    warnings: tuple[str, ...] = ()


KINDS = (
    Kind("axial", (20, 24, 16), (2, 2, 3)),
    Kind("sagittal", (9, 30, 28), (4, 1, 1), "RAS", "sagittal", warnings=("made for FLAIR, given T1", "second")),
    Kind("coronal", (22, 11, 25), (1.5, 5, 1.5), "PSR", "sagittal", heights=(0.7,)),
    Kind("ct", (26, 26, 8), (0.5, 0.5, 5), modality="CT"),
    Kind("oblique", (14, 18, 10), oblique=True),
    Kind("polyp", (48, 36, 1), channels=3, picture=True),
    Kind("xray", (30, 41, 1), picture=True, heights=(0.9, 0.85, 0.6)),
    Kind("gone", (20, 24, 16), (1, 1, 1), source=False),
    Kind("normal", (12, 12, 12), heights=()),
    Kind("twin", (20, 24, 16), (2, 2, 3), heights=(0.6, 0.95)),  # the grid of another one, another map
)


def write_kind(folder: Path, kind: Kind) -> Path:
    """A source and the result that was made from it: ``sources/NAME.*``, ``results/NAME``."""
    source = _write_source(folder / "sources", kind)
    volume = load_volume(source)
    amap = blobs(kind)
    meta = {**volume.meta, "modality": None if kind.picture else kind.modality}
    result = make_result(np.asarray(volume.affine), amap, meta, kind.plane, volume.array)
    found = find_components(result.map_array, result.affine, 0.5, _axis_of(result, kind.plane))
    result = replace(result, findings=found, warnings=kind.warnings, provenance={"model": f"model-{kind.name}"})
    out = folder / "results" / kind.name
    out.mkdir(parents=True)
    write_result(result, out, formats=("nifti",))
    if not kind.source:
        source.unlink()
    return out


def write_mixed(folder: Path, kinds: Sequence[Kind] = KINDS) -> dict[str, Path]:
    """Result folders by name."""
    return {kind.name: write_kind(folder, kind) for kind in kinds}


def open_mixed(folder: Path, **options: Any) -> Session:
    """A session on all of them."""
    return Session.open([folder / "results"], session_dir=folder / "session", sources=[folder / "sources"], **options)


def map_on_disk(result: Path) -> tuple[np.ndarray, str]:
    """The map of a result as nibabel reads it, and the hash of its file."""
    path = result / "anomaly_map.nii.gz"
    return np.asarray(nib.load(path).dataobj, dtype=np.float32), sha256_file(path)


def blobs(kind: Kind) -> np.ndarray:
    """Smooth blobs on a floor of 0.02, along the diagonal of the grid."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in kind.shape), indexing="ij"), axis=-1)
    amap = np.full(kind.shape, 0.02)
    for number, height in enumerate(kind.heights, start=1):
        peak = [round(n * number / (len(kind.heights) + 1)) if n > 1 else 0 for n in kind.shape]
        amap = np.maximum(amap, height * np.exp(-((index - peak) ** 2).sum(axis=-1) / 6))
    return amap


def _write_source(folder: Path, kind: Kind) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(kind.name)).uniform(20, 200, (*kind.shape, kind.channels))
    if kind.picture:
        path = folder / f"{kind.name}.png"
        rows = noise[:, :, 0].transpose(1, 0, 2).astype(np.uint8)
        Image.fromarray(rows if kind.channels == 3 else rows[..., 0]).save(path)
        return path
    path = folder / f"{kind.name}.nii.gz"
    values = noise[..., 0] - (500 if kind.modality == "CT" else 0)
    nib.Nifti1Image(values.astype(np.float32), _affine(kind)).to_filename(path)
    return path


def _affine(kind: Kind) -> np.ndarray:
    if kind.oblique:
        return oblique_affine()
    affine = nib.orientations.inv_ornt_aff(
        nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(kind.axes))
        ),
        kind.shape,
    )
    affine = affine @ np.diag([*kind.steps, 1.0])
    affine[:3, 3] = 10.5, -7.0, 3.25
    return np.asarray(affine)


def _axis_of(result: Any, plane: Plane) -> int:
    from headclip_med.base.geometry import plane_axis

    return plane_axis(result.affine, plane)
