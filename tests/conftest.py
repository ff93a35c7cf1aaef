"""Shared fixtures: real data, a tiny random pack, a small volume."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from small_cases import write_tiny_pack, write_volume

with suppress(ImportError):  # tensorboard's and onnx's; its handler closes the stream it was made with
    from absl import logging as absl_logging

    absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the real data; the test is skipped where it is absent."""
    folder = Path(os.environ.get("HEADCLIP_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip("no shared data")
    return folder


@pytest.fixture(scope="session")
def tiny_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack folder with a random ViT of 32 px, two layers and two heads; a case takes milliseconds."""
    return write_tiny_pack(tmp_path_factory.mktemp("packs") / "tiny")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """One good volume, ``good.nii.gz``."""
    return write_volume(tmp_path / "in" / "good.nii.gz")


_OPENS_GL = """
from qtpy.QtGui import QOffscreenSurface, QOpenGLContext
from qtpy.QtWidgets import QApplication
app = QApplication([])
surface, context = QOffscreenSurface(), QOpenGLContext()
surface.create()
raise SystemExit(0 if context.create() and context.makeCurrent(surface) else "no OpenGL context")
"""


@pytest.fixture(scope="session")
def display() -> None:
    """Skips where no window opens; tried in another process, because Qt ends a process that has no display."""
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        pytest.skip("no display: neither Xvfb nor DISPLAY is there")
    tried = subprocess.run([sys.executable, "-c", _OPENS_GL], capture_output=True, text=True, timeout=60)
    if tried.returncode != 0:
        reason = (tried.stderr.strip() or f"exit code {tried.returncode}").splitlines()[0]
        pytest.skip(f"no window with OpenGL can be opened: {reason}")


@pytest.fixture
def viewer(display: None, request: pytest.FixtureRequest) -> Any:
    """An open napari viewer."""
    return request.getfixturevalue("make_napari_viewer")()


@pytest.fixture
def make_dock(viewer: Any) -> Iterator[Callable[[], Any]]:
    """Makes review docks in one viewer; all of them are closed in the end."""
    from napari_headclip_med.widget import ReviewWidget

    docks: list[Any] = []

    def make() -> Any:
        dock = ReviewWidget(viewer, store={})
        viewer.window.add_dock_widget(dock, name=f"review {len(docks)}")
        docks.append(dock)
        return dock

    yield make
    for dock in docks:
        dock.close_all()


@pytest.fixture
def dock(make_dock: Callable[[], Any]) -> Any:
    """A review dock in a viewer."""
    return make_dock()


@pytest.fixture(scope="module", autouse=True)
def _windows_end_in_their_own_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collect what the viewer's tests leave, here and now.

    Left to Python, it is collected in whichever thread allocates next, such as the one that reads cases ahead. A window
    with OpenGL that ends there leaves this thread's current context dangling, and Qt follows it when the process exits.
    """
    yield
    if "napari" in request.module.__name__:
        gc.collect()
