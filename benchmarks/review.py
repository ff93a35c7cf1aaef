"""The review dock on a 240 × 240 × 155 volume with its map: python benchmarks/review.py [--repeats 40] [--json FILE]

Under a display or ``xvfb-run -a``. Timed until the canvas has drawn: the first picture after the files are read, a step
to another slice with contours, and a move of the threshold on the slice that is shown. Medians of the wall clock, and
of this process's CPU time (all threads), which says more on a machine that is not quiet.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from headclip_med.base.files import sha256_file
from headclip_med.base.types import VolumeMeta
from headclip_med.base.volume import LoadedVolume
from headclip_med.datasets.phantom import Lesion, centred_affine, make_phantom
from headclip_med.engine.result import AnomalyResult, SliceScore
from headclip_med.engine.volume_map import find_components
from headclip_med.review import Session
from headclip_med.writing import write_result

SHAPE = (240, 240, 155)
_THRESHOLD = 0.5
_LESIONS = (Lesion((28.0, 20.0, 24.0), (14.0, 16.0, 12.0)), Lesion((-30.0, -25.0, 5.0), (10.0, 9.0, 11.0)))


def write_case(folder: Path) -> None:
    """A synthetic head and a map that is high in its lesions and noisy elsewhere."""
    affine = centred_affine(SHAPE, (1.0, 1.0, 1.0))
    head = make_phantom(5, shape=SHAPE, affine=affine, lesions=_LESIONS)
    source = folder / "head.nii.gz"
    nib.Nifti1Image(head.array.round().astype(np.int16), affine).to_filename(source)
    noise = np.random.default_rng(0).uniform(0, 0.45, SHAPE).astype(np.float32)
    amap = np.where(head.truth > 0, np.float32(0.9), noise * (head.array > 0))
    meta = VolumeMeta(source_name=source.name, source_format="nifti", content_sha256=sha256_file(source))
    scores = amap.max(axis=(0, 1))
    result = AnomalyResult(
        volume=LoadedVolume(head.array[None], affine, meta),
        volume_map=LoadedVolume(amap[None], affine, meta),
        pred_score=0.9,
        threshold=_THRESHOLD,
        threshold_origin="benchmark",
        planes=("axial",),
        slices=tuple(SliceScore(k, (0.0, 0.0, float(k - 77)), float(scores[k])) for k in range(SHAPE[2])),
        findings=find_components(amap, affine, _THRESHOLD, 2),
        display_window=(0.0, 1000.0),
    )
    result = replace(result, provenance={"model": "benchmark"})
    (folder / "result").mkdir()
    write_result(result, folder / "result", formats=("nifti",))


def drawn(viewer: Any) -> None:
    """Wait until everything that was asked for is on the canvas."""
    from qtpy.QtWidgets import QApplication

    QApplication.processEvents()
    viewer.window._qt_viewer.canvas._scene_canvas.context.finish()


def medians(
    viewer: Any, act: Callable[[Any], object], values: Iterable[Any], before: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """Median ms of ``act`` with each value, until the canvas has drawn; what is done ``before`` each is not timed."""
    wall, busy = [], []
    for value in values:
        before()
        begin, began = time.perf_counter(), time.process_time()
        act(value)
        drawn(viewer)
        wall.append(1000 * (time.perf_counter() - begin))
        busy.append(1000 * (time.process_time() - began))
    return {"wall_ms": statistics.median(wall[2:]), "cpu_ms": statistics.median(busy[2:])}  # the first ones warm up


def measure(folder: Path, repeats: int) -> dict[str, Any]:
    """Open the case in a window and time it."""
    from napari_headclip_med.launch import dock_of, open_review
    from napari_headclip_med.layers.picture import picture_of
    from vispy.gloo import gl

    viewer = open_review(None, show=False)
    viewer.window.show()
    viewer.window.resize(1400, 900)
    dock = dock_of(viewer)
    drawn(viewer)
    session = Session.open([folder / "result"], session_dir=folder / "session", sources=[folder / "head.nii.gz"])
    dock.review_session(session)
    drawn(viewer)
    case = session.case

    def show(_: int) -> None:
        dock.layers.open(picture_of(case, dock.review.source.volume))
        dock.review._show(dock.review._shown)

    found = {
        "first picture after reading": medians(viewer, show, [0] * 5, before=dock.layers.close),
        "picture of the next case": medians(viewer, show, [0] * 5),
        "slice step with contours": medians(viewer, dock.review.jump, [30 + n % 100 for n in range(repeats + 2)]),
        "threshold on the slice": medians(
            viewer, dock.views.threshold.number.setValue, [0.3 + 0.6 * n / (repeats + 2) for n in range(repeats + 2)]
        ),
    }
    renderer = gl.glGetParameter(gl.GL_RENDERER)
    dock.close_all()
    viewer.close()
    return {"opengl": str(renderer), "times": found}


def main() -> None:
    """Print and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_case(Path(folder))
        found = measure(Path(folder), options.repeats)
    report = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "napari": version("napari"),
        **found,
    }
    print(f"{report['machine']}, load {report['load']}, napari {report['napari']}, {report['opengl']}")
    for name, times in found["times"].items():
        print(f"{name:>28}: {times['wall_ms']:7.1f} ms, CPU {times['cpu_ms']:7.1f} ms")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
