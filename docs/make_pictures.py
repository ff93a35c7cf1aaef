"""Make the pictures of the README and the docs from the code itself: python docs/make_pictures.py [OUT_FOLDER].

Pictures of the review dock need a display: ``xvfb-run -a -s "-screen 0 1600x1000x24" python docs/make_pictures.py``.
Without one they are left as they are.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headclip_med import load_engine
from headclip_med.cohort.demo import CASE_NAME, VOLUME_NAME, dice, run_demo
from headclip_med.evaluation.case_picture import key_slice_picture
from headclip_med.training.synthetic import CALIBRATION_SEED_LIMIT, random_phantom

_WINDOW = (1360, 900)


def main() -> None:
    """The preview of the embedded demonstration, whose lesion the model never saw, and the dock at work on it."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_demo(Path(folder))
        shutil.copy(outcome.files["preview"], out / "demo_overlay.png")
        failures(out / "tiny_failures.png")
        if sys.platform != "linux" or os.environ.get("DISPLAY"):
            dock_pictures(Path(folder), out)


def failures(path: Path) -> None:
    """Of twelve synthetic heads that the embedded model never saw, the three it did worst on, where it differs most."""
    engine = load_engine("headclip-tiny", "cpu")
    rng = np.random.default_rng(5)
    heads = [random_phantom(rng, CALIBRATION_SEED_LIMIT + number) for number in range(12)]
    results = [engine.predict(head.array, affine=head.affine) for head in heads if head.truth.any()]
    truths = [head.truth > 0 for head in heads if head.truth.any()]
    scores = [dice(result.map_array >= result.threshold, truth) for result, truth in zip(results, truths, strict=True)]
    worst = np.argsort(scores)[:3]
    shots = [key_slice_picture(results[i], truths[i]).convert("RGB") for i in worst]
    sheet = Image.new("RGB", (max(shot.width for shot in shots), sum(shot.height for shot in shots)), "white")
    top = 0
    for shot in shots:
        sheet.paste(shot, (0, top))
        top += shot.height
    sheet.quantize(256).save(path, optimize=True)


def dock_pictures(folder: Path, out: Path) -> None:
    """One picture for each step of a review, of the result in ``folder / CASE_NAME``."""
    from headclip_med.review import Session

    results, sources = [folder / CASE_NAME], [folder / VOLUME_NAME]
    session = Session.open(results, "r1", session_dir=folder / "session", sources=sources)
    unaided = Session.open(results, "r2", session_dir=folder / "session", sources=sources, unaided_first=True)
    for step in (open_case, decide, draw_missed, sagittal):
        picture(out / f"napari_{step.__name__}.png", session, step)
    picture(out / "napari_unaided.png", unaided, lambda viewer, dock: None)
    picture(out / "napari_run.png", None, lambda viewer, dock: run(viewer, dock, folder))


def picture(path: Path, session: Any, step: Callable[[Any, Any], object]) -> None:
    """A window with the dock, one step done, as PNG."""
    from napari_headclip_med.launch import dock_of, open_review

    viewer = open_review(None, show=False)
    viewer.window.show()
    viewer.window.resize(*_WINDOW)
    viewer.window._qt_viewer.dockLayerControls.setVisible(False)
    dock = dock_of(viewer)
    wait(lambda: False, 0.3)
    if session is not None:
        dock.review_session(session)
    step(viewer, dock)
    wait(lambda: False, 0.5)
    viewer.screenshot(str(path), canvas_only=False, flash=False)
    with Image.open(path) as shot:
        shot.convert("RGB").save(path, optimize=True)
    dock.close_all()
    viewer.close()


def open_case(viewer: Any, dock: Any) -> None:
    """As it opens: the most suspicious slice."""


def decide(viewer: Any, dock: Any) -> None:
    """The threshold raised, one finding accepted, one rejected."""
    dock.views.threshold.number.setValue(0.8)
    wait(lambda: dock.review.case.threshold > 0.79, 30)
    dock.views.findings.decide("accepted")
    dock.views.findings.label.setText("lesion")
    dock.views.findings.label.setModified(True)
    dock.views.findings.step(1)
    dock.views.findings.decide("rejected")
    dock.views.findings.step(-1)
    show_lower_half(dock)


def draw_missed(viewer: Any, dock: Any) -> None:
    """A region painted by hand."""
    dock.views.draw.draw_button.click()
    layer = dock.layers.drawn
    row, column = (size // 2 for size in layer.data.shape[1:])
    step = viewer.dims.current_step[0]
    for shift in range(10):
        layer.paint((step, row - 20 + shift, column - 14 + 2 * shift // 3), layer.selected_label)
    layer.events.paint(value=[])
    show_lower_half(dock)


def sagittal(viewer: Any, dock: Any) -> None:
    """Another plane, through the finding."""
    dock.review.drawing.end()
    dock.views.display.plane.setCurrentText("sagittal")
    dock.review.show_plane("sagittal")
    viewer.reset_view()
    scroll(dock, 1)


def run(viewer: Any, dock: Any, folder: Path) -> None:
    """In the middle of a run, maps as they come."""
    from napari_headclip_med.files.reader import read_volume_files

    for data, kwargs, _ in read_volume_files(str(folder / VOLUME_NAME)):
        viewer.add_image(data, **kwargs)
    dock.settings_box.folder_edit.setText(str(folder / "out"))
    dock.tabs.setCurrentIndex(1)
    dock.run_box.run_button.click()
    wait(lambda: dock.run_box.bar.value() >= 45, 300)
    dock.layers.jump(max(dock.run._scores) - 4)
    wait(lambda: False, 0.3)
    dock.settings_box.folder_edit.setText("~/headclip_med_results")


def show_lower_half(dock: Any) -> None:
    """Scroll the dock to threshold and findings."""
    scroll(dock, 0.5)


def scroll(dock: Any, share: float) -> None:
    """Scroll the dock's tab."""
    bar = dock.tabs.widget(0).verticalScrollBar()
    wait(lambda: False, 0.2)
    bar.setValue(round(share * bar.maximum()))


def wait(condition: Callable[[], bool], seconds: float) -> None:
    """Let the window work until something has happened, or so many seconds."""
    from qtpy.QtWidgets import QApplication

    end = time.perf_counter() + seconds
    while not condition() and time.perf_counter() < end:
        QApplication.processEvents()
        time.sleep(0.01)


if __name__ == "__main__":
    main()
