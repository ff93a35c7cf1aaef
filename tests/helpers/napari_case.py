"""A small case for the tests of the review dock: a volume on disk, and a result folder made from it by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from writing_phantom import make_result

from headclip_med.base.errors import CancelledError
from headclip_med.base.files import sha256_file
from headclip_med.base.geometry import voxel_to_world
from headclip_med.engine.volume_map import find_components
from headclip_med.review import Session
from headclip_med.writing import write_result

SHAPE = (20, 24, 16)
PEAKS = ((5, 6, 4), (14, 17, 11))  # voxels of two findings, the first one higher
MISSED = (10, 4, 8)  # a voxel where the map says nothing


def affine_2mm() -> np.ndarray:
    """LPS order, 2 × 2 × 3 mm, off the origin."""
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    affine[:3, 3] = (21.0, 20.0, -17.0)
    return affine


def anomaly_map() -> np.ndarray:
    """Two smooth blobs with peaks 0.95 and 0.8 at :data:`PEAKS`."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    amap = np.full(SHAPE, 0.02)
    for peak, height in zip(PEAKS, (0.95, 0.8), strict=True):
        amap = np.maximum(amap, height * np.exp(-((index - peak) ** 2).sum(axis=-1) / 8))
    return amap


def write_case(folder: Path, name: str = "case", affine: np.ndarray | None = None) -> tuple[Path, Path]:
    """A source volume and its result folder."""
    affine = affine_2mm() if affine is None else affine
    image = np.random.default_rng(0).normal(400, 20, SHAPE).astype(np.float32)
    image[PEAKS[0]] = 900
    source = folder / "sources" / f"{name}.nii.gz"
    source.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(image, affine).to_filename(source)
    meta: dict[str, Any] = {"source_name": source.name, "content_sha256": sha256_file(source), "modality": "MR"}
    result = make_result(affine, anomaly_map(), meta, image=image[None])
    result = replace(result, findings=find_components(result.map_array, affine, 0.5, 2))
    result = replace(result, provenance={"model": "tiny-random", "weights_sha256": "ab" * 32})
    out = folder / "results" / name
    out.mkdir(parents=True)
    write_result(result, out, formats=("nifti",))
    return source, out


def open_session(folder: Path, **options: Any) -> Session:
    """A session on everything that :func:`write_case` has written into ``folder``."""
    return Session.open([folder / "results"], session_dir=folder / "session", sources=[folder / "sources"], **options)


def killed(session: Session) -> None:
    """What the system does for a process that is killed: files are closed, nothing else is done."""
    assert session.case is not None
    assert session.case._store is not None
    session.case._store._close()


def ras_of(voxel: tuple[int, int, int]) -> np.ndarray:
    """RAS mm of a voxel's centre."""
    return voxel_to_world(affine_2mm(), np.array(voxel))


class Endless:
    """An engine that goes on until it is told to stop."""

    is_stopped = False

    def predict(self, source: Any, ask: Any, *, cancel: Any, progress: Any, **rest: Any) -> None:
        done = 0
        while not cancel():
            done += 1
            progress(done, 10**6)
            time.sleep(0.001)
        self.is_stopped = True
        raise CancelledError("stopped")


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    from qtpy.QtWidgets import QApplication

    end = time.perf_counter() + seconds
    while not condition():
        assert time.perf_counter() < end, "it did not happen in time"
        QApplication.processEvents()
        time.sleep(0.005)


def status(dock: Any) -> str:
    return str(dock.views.footer.status.text())


def contour_at(dock: Any, voxel: tuple[int, int, int]) -> int:
    """Code of the contour layer at a voxel of the source."""
    return int(dock.layers.grid.to_source(dock.layers.contours.data)[voxel])


def paint(dock: Any, voxel: tuple[int, int, int]) -> None:
    """A stroke of the brush at a voxel of the source."""
    layer = dock.layers.drawn
    place = layer.world_to_data(dock.layers.grid.world_of(ras_of(voxel)))
    dock.viewer.dims.set_point(range(3), tuple(dock.layers.grid.world_of(ras_of(voxel))))
    with layer.block_history():
        layer.paint(tuple(place), layer.selected_label)
    layer.events.paint(value=[])
