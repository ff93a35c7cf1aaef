"""Parts of the plugin that know neither Qt nor napari: windows, rows, runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari_case import open_session, write_case
from napari_headclip_med.control.worker import LocalRunner, Progress, RunOptions, SlicesDone, in_words
from napari_headclip_med.layers.windows import dragged, first_window, percentile_limits, preset_limits, presets
from napari_headclip_med.views import lines
from small_cases import write_volume

from headclip_med.base.errors import CancelledError
from headclip_med.engine.result import AnomalyResult


def test_modules_that_know_no_qt_load_none() -> None:
    names = ["control.worker", "files.writer", "layers.grid", "layers.orientation"]
    names += ["layers.volume", "layers.windows", "views.lines"]
    code = f"import sys; [__import__('napari_headclip_med.' + n) for n in {names}]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"qtpy", "napari", "torch"}.isdisjoint(done.stdout.split())


# -- windows


def test_a_volume_opens_in_its_own_window_or_one_that_shows_it() -> None:
    channel = np.linspace(0, 1000, 1001, dtype=np.float32)
    assert first_window(channel, {"default_window": [40, 80]}) == (0, 80)
    assert first_window(channel, {"modality": "CT"}) == (0, 80)
    low, high = first_window(channel, {"modality": "MR"})
    assert 0 < low < 10
    assert 990 < high < 1000
    assert preset_limits("bone", channel, {}) == (-800, 2000)
    assert preset_limits("as opened", channel, {"modality": "CT"}) == (0, 80)
    assert "lung" in presets("CT")
    assert "lung" not in presets("MR")


def test_a_constant_channel_still_has_two_ends() -> None:
    low, high = percentile_limits(np.full((3, 3), 5, dtype=np.float32), 0, 100)
    assert low == 5 < high


def test_a_drag_widens_to_the_right_and_shifts_downwards() -> None:
    assert dragged((0, 100), 0.5, 0, 100) == (-25, 125)
    assert dragged((0, 100), 0, 0.1, 100) == (10, 110)
    low, high = dragged((0, 100), -5, 0, 100)
    assert low < high


# -- rows


def test_a_case_in_words(tmp_path: Path) -> None:
    write_case(tmp_path)
    with open_session(tmp_path) as session:
        case = session.open_case("case")
        case.show_overlay()
        found = lines.finding_lines(case)
        assert [row.status for row in found] == [None, None]
        assert found[0].place == "R11 A8 I5"
        assert found[0].slices == "2–6"
        assert lines.slice_lines(case)[0].index == 4
        assert lines.slice_lines(case)[0].position == "I 5.0 mm"
        assert lines.score_words(case) == "case: score 0.950, 2 findings at 0.500."
        facts = dict(lines.provenance(case))
        assert facts["model"] == "tiny-random"
        assert facts["weights"].startswith("abababababab")
        case.set_threshold(0.3)
        assert lines.threshold_words(case) == "moved by the reader; the result's own is 0.500"


def test_a_concealed_case_says_nothing(tmp_path: Path) -> None:
    write_case(tmp_path)
    with open_session(tmp_path, unaided_first=True) as session:
        case = session.open_case("case")
        assert lines.finding_lines(case) == []
        assert {row.score for row in lines.slice_lines(case)} == {None}
        assert [row.score for row in lines.case_lines(session)] == [None]
        assert "0.9" not in lines.score_words(case)


# -- runs


def test_a_run_yields_every_slice_and_then_the_result(tiny_pack: Path, tmp_path: Path) -> None:
    scan = write_volume(tmp_path / "scan.nii.gz")
    events = list(LocalRunner().run(scan, RunOptions(str(tiny_pack))))
    slices = [event for event in events if isinstance(event, SlicesDone)]
    assert [index for event in slices for index in event.indices] == list(range(6))
    assert slices[0].maps.shape == (6, 24, 20)  # at once, of so small a model
    assert isinstance(events[-1], AnomalyResult)
    assert [(e.done, e.total) for e in events if isinstance(e, Progress) and e.total] == [(6, 6)]


def test_closing_the_iterator_stops_the_engine() -> None:
    class Endless:
        stopped = False

        def predict(self, source: Any, ask: Any, *, cancel: Any, progress: Any, **rest: Any) -> None:
            done = 0
            while not cancel():
                done += 1
                progress(done, 10**9)
            self.stopped = True
            raise CancelledError("stopped")

    engine = Endless()
    events = LocalRunner(lambda name: engine).run("x", RunOptions("endless"))
    while not (isinstance(event := next(events), Progress) and event.done > 3):
        pass
    events.close()
    assert engine.stopped


def test_errors_of_a_run_are_words() -> None:
    def load(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    with pytest.raises(ModuleNotFoundError) as caught:
        list(LocalRunner(load).run("x", RunOptions("any")))
    assert "needs the package torch" in in_words(caught.value)
    assert "Reviewing results does not" in in_words(caught.value)
    assert "internal error (ZeroDivisionError)" in in_words(ZeroDivisionError())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Mesa is Linux's")
@pytest.mark.parametrize("library", ["libLLVM-15.so.1", "libgallium-25.0.so", "swrast_dri.so", "libother.so"])
@pytest.mark.parametrize("first", ["import headclip_med", ""], ids=["window opened later", "window opened first"])
def test_load_engine_beside_an_open_viewer_does_not_end_the_process(tmp_path: Path, library: str, first: str) -> None:
    """A process in which Mesa's LLVM lies loads no second one, whoever opened the window and when."""
    code = f"""
import sys, mmap
{first}
file = open({str(tmp_path / library)!r}, "w+b")
file.write(bytes(4096)); file.flush()
mapped = mmap.mmap(file.fileno(), 4096)
from headclip_med import HeadclipError
print(sys.modules.get("triton", "free"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == ("free" if library == "libother.so" else "None"), done.stderr


def test_the_sample_result_is_computed_without_triton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside Mesa's OpenGL triton ended napari when the sample was opened before any model had been run."""
    from napari_headclip_med.files import sample_data

    import headclip_med.cohort.demo

    class StoppedError(Exception):
        pass

    def run_demo(folder: Path, engine: object = None) -> None:
        raise StoppedError

    kept_out = []
    monkeypatch.setattr(sample_data.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(headclip_med.cohort.demo, "run_demo", run_demo)
    monkeypatch.setattr("headclip_med.keep_triton_out", lambda: kept_out.append(True))
    with pytest.raises(StoppedError):
        sample_data.synthetic_result()
    assert kept_out
