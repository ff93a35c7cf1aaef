"""Drawing, keys, display and the end of the review dock, in a real viewer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari_case import MISSED, Endless, open_session, paint, ras_of, status, wait_for, write_case

from headclip_med.base.errors import InputError
from headclip_med.review import Session

pytest.importorskip("napari")
from napari_headclip_med import compat
from napari_headclip_med.control.keys import KEYS, PEEK_KEY
from qtpy.QtCore import QSettings
from qtpy.QtGui import QAction, QKeySequence, QShortcut
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QDoubleSpinBox, QPlainTextEdit

MakeDock = Callable[[], Any]


# -- drawing


def test_a_drawn_region_is_kept_stroke_by_stroke_in_the_sources_grid(dock: Any, tmp_path: Path) -> None:
    write_case(tmp_path)
    dock.review_session(open_session(tmp_path))
    case = dock.review.case
    dock.views.draw.draw_button.click()
    dock.layers.drawn.brush_size = 1
    paint(dock, MISSED)
    drawn = case.review.drawn["d1"]
    assert drawn.finding.voxels == 1
    np.testing.assert_allclose(drawn.finding.centroid_mm, ras_of(MISSED))
    dock.views.draw.drop_button.click()
    assert case.review.drawn == {}
    assert not dock.layers.drawn.data.any()
    dock.views.footer.undo_button.click()
    assert "d1" in case.review.drawn
    assert dock.layers.drawn.data.sum() == 1


def test_words_typed_for_a_finding_are_kept_when_another_one_is_chosen(dock: Any, tmp_path: Path) -> None:
    write_case(tmp_path)
    dock.review_session(open_session(tmp_path))
    v = dock.views
    v.findings.label.setText("oedema")
    v.findings.label.setModified(True)
    v.findings.step(1)
    assert [row.label for row in dock.review.case.findings] == ["oedema", ""]
    assert v.findings.label.text() == ""


# -- keys and display


def test_keys_do_what_they_say_but_in_a_field_for_text(dock: Any, viewer: Any, tmp_path: Path) -> None:
    write_case(tmp_path)
    dock.review_session(open_session(tmp_path))
    window, case, v = viewer.window._qt_window, dock.review.case, dock.views
    window.show()
    canvas = viewer.window._qt_viewer.canvas.native
    press(canvas, "9")
    assert case.findings[0].status == "rejected"
    press(v.cases.table, "U")
    assert case.findings[0].status is None
    for field in (v.findings.note, dock.run_box.model, QDoubleSpinBox(window), QPlainTextEdit(window)):
        dock.tabs.setCurrentIndex(int(field is dock.run_box.model))
        field.show()
        for text in ("8", "U", "Shift+U", "PgDown", "PgUp", "Q", "W", ","):
            press(field, text)
        assert [row.status for row in case.findings] == [None, None], field
        assert (case.threshold, case.review.done, dock.review.drawing.is_going_on) == (0.5, False, False), field
    assert v.findings.note.text().lower() == "8uuqw,"
    press(canvas, "8")
    assert case.findings[0].status == "accepted"
    dock.close_all()
    press(canvas, "9")
    assert case.findings[0].status == "accepted"


def test_the_bare_slice_is_seen_while_its_key_is_held(dock: Any, viewer: Any, tmp_path: Path) -> None:
    write_case(tmp_path)
    dock.review_session(open_session(tmp_path))
    viewer.window._qt_window.show()
    canvas, key = viewer.window._qt_viewer.canvas.native, QKeySequence(PEEK_KEY.text)[0].key()
    QTest.keyPress(canvas, key)
    assert not dock.layers.map.visible
    QTest.keyRelease(canvas, key)
    assert dock.layers.map.visible


def test_no_key_is_one_of_naparis_or_of_an_operating_system(viewer: Any) -> None:
    from napari import layers
    from napari.settings import get_settings

    window = viewer.window._qt_window
    taken = {str(key) for keys in get_settings().shortcuts.shortcuts.values() for key in keys}
    taken |= {str(key) for kind in layers.NAMES for key in getattr(layers, kind.title()).class_keymap}
    taken |= {str(key) for key in (*type(viewer).class_keymap, *viewer.keymap)}
    taken |= {keys.toString() for action in window.findChildren(QAction) for keys in action.shortcuts()}
    taken |= {shortcut.key().toString() for shortcut in window.findChildren(QShortcut)}
    assert len(taken) > 50, "napari's own were found"
    ours = [key.text for key in (*KEYS, PEEK_KEY)]
    assert len({normal(text) for text in ours}) == len(ours)
    assert {normal(text) for text in ours} & {normal(text) for text in taken} == set()
    assert {text.rpartition("+")[0] for text in ours} == {"", "Shift"}, "systems take keys with Ctrl, Alt and Meta"


def test_every_key_stands_in_the_dock_and_in_the_docs(dock: Any) -> None:
    table = dock.key_box.table
    assert [table.item(row, 1).text() for row in range(table.rowCount())] == [key.text for key in (*KEYS, PEEK_KEY)]
    docs = (Path(__file__).parents[2] / "docs" / "napari.md").read_text().partition("## Keys")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"`([^`]+)`", docs)) == sorted(key.text for key in (*KEYS, PEEK_KEY))


@pytest.mark.parametrize("preferences", [None, SimpleNamespace(reader="anna", unaided_first=False)])
def test_what_was_chosen_is_there_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preferences: Any
) -> None:
    """In napari's Preferences where this napari has them, else in a file."""
    monkeypatch.setattr(compat, "_preferences", lambda: preferences)
    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(tmp_path))
    store = compat.SettingsStore()
    assert store.get("reader") == (None if preferences is None else "anna")
    store["reader"], store["unaided_first"], store["results_folder"] = "ben", "yes", "/out"
    again = compat.SettingsStore()
    assert [again.get(name) for name in ("reader", "unaided_first", "results_folder")] == ["ben", "yes", "/out"]
    if preferences is not None:
        assert (preferences.reader, preferences.unaided_first) == ("ben", True)


def press(widget: Any, text: str) -> None:
    """Press and let go of a key, as its user does, with the focus on a widget of an active window."""
    window = widget.window()
    window.activateWindow()
    wait_for(lambda: QApplication.activeWindow() is window)
    widget.setFocus()
    assert QApplication.focusWidget() is widget
    combination = QKeySequence(text)[0]
    if len(text) == 1:
        QTest.keyClick(widget, text.lower())  # with its letter
    else:
        QTest.keyClick(widget, combination.key(), combination.keyboardModifiers())


def normal(text: str) -> str:
    """A key in one spelling: Qt and napari write some differently."""
    *modifiers, last = text.lower().replace("++", "+plus").split("+")
    return "+".join([*sorted(modifiers), {"pagedown": "pgdown", "pageup": "pgup"}.get(last, last)])


def test_opacity_window_and_peek_change_layers(dock: Any, viewer: Any, tmp_path: Path) -> None:
    write_case(tmp_path)
    dock.review_session(open_session(tmp_path))
    dock.views.display.opacity.setValue(25)
    assert dock.layers.map.opacity == 0.25
    dock.review.choose_window("full")
    _, high = dock.layers.limits
    assert high == pytest.approx(900)
    dock.views.display.peek_button.pressed.emit()
    assert [layer.visible for layer in viewer.layers] == [True, False, False, False]
    dock.views.display.peek_button.released.emit()
    assert [layer.visible for layer in viewer.layers] == [True, True, True, False]  # nothing is drawn


def test_another_sequence_lies_beside_the_source(dock: Any, tmp_path: Path) -> None:
    source, _ = write_case(tmp_path)
    dock.review_session(open_session(tmp_path))
    dock.tools.add_sequence(source)
    wait_for(lambda: not dock.background.is_busy)
    assert len(dock.layers.sources) == 2
    assert len(dock.views.display._boxes) == 2
    dock.views.display._boxes[1].setChecked(False)
    assert not dock.layers.sources[1].visible


def test_provenance_and_warning_are_always_there(dock: Any, tmp_path: Path) -> None:
    write_case(tmp_path)
    assert "Research use only" in dock.views.footer.warning.text()
    dock.review_session(open_session(tmp_path))
    assert "tiny-random" in dock.views.footer.provenance.text()
    assert "abababababab" in dock.views.footer.provenance.text()


def test_next_case_and_done(dock: Any, tmp_path: Path) -> None:
    write_case(tmp_path, "one")
    write_case(tmp_path, "two")
    dock.review_session(open_session(tmp_path))
    first = dock.review.case.key
    dock.views.cases.done_box.click()
    assert dock.review.case.review.done
    dock.views.cases.next_button.click()
    assert dock.review.case.key != first
    assert dock.views.cases.title() == "Cases: 1 of 2 to read"
    dock.views.cases.previous_button.click()
    assert dock.review.case.key == first


# -- the mouse wheel


def turn_wheel(widget: Any) -> None:
    """One notch of the wheel over the middle of a widget, as the system sends it: to the window."""
    from qtpy.QtCore import QPoint, QPointF
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QApplication

    window = widget.window()
    QTest.wheelEvent(window.windowHandle(), QPointF(widget.mapTo(window, widget.rect().center())), QPoint(0, -120))
    QApplication.processEvents()


def test_the_wheel_over_a_slider_combo_or_spin_box_scrolls_the_dock_and_changes_nothing(
    dock: Any, viewer: Any, tmp_path: Path
) -> None:
    """ "Sure" fell from 50 to 35 per cent, and axial became sagittal, by scrolling past."""
    from qtpy.QtWidgets import QAbstractSpinBox, QApplication, QComboBox, QSlider

    write_case(tmp_path)
    dock.review_session(open_session(tmp_path))
    viewer.window._qt_window.resize(900, 500)
    viewer.window._qt_window.show()
    kinds = (QSlider, QComboBox, QAbstractSpinBox)
    found = [widget for kind in kinds for widget in dock.findChildren(kind)]
    assert len(found) >= 10

    def state() -> list[Any]:
        return [w.currentText() if isinstance(w, QComboBox) else w.value() for w in found]

    for tab in (0, 1):
        dock.tabs.setCurrentIndex(tab)
        area = dock.tabs.widget(tab)
        bar = area.verticalScrollBar()
        for widget in found:
            if area.isAncestorOf(widget) and widget.isVisibleTo(area):
                bar.setValue(0)
                QApplication.processEvents()
                area.ensureWidgetVisible(widget)
                bar.setValue(min(bar.value(), bar.maximum() - 1))
                QApplication.processEvents()
                before, place = state(), bar.value()
                turn_wheel(widget)
                assert state() == before, widget
                assert not widget.hasFocus(), "nor does it take the focus for the next turn"
                assert bar.value() > place, f"{widget} keeps the dock from scrolling"
    assert dock.review.case.threshold == 0.5
    dock.tabs.setCurrentIndex(0)
    slider = dock.views.display.opacity
    slider.setFocus()
    QApplication.processEvents()
    if slider.hasFocus():  # a window without a window manager may never be active
        turn_wheel(slider)
        assert slider.value() != 60


# -- the end


def test_closing_the_dock_saves_and_unlocks(make_dock: MakeDock, tmp_path: Path) -> None:
    write_case(tmp_path)
    dock = make_dock()
    dock.review_session(open_session(tmp_path))
    dock.views.findings.decide("uncertain")
    dock.close_all()
    with open_session(tmp_path) as session:
        case = session.open_case("case")
        assert case.read_only is None
        assert case.findings[0].status == "uncertain"


def test_a_dock_that_is_taken_out_of_its_frame_gives_the_review_back(
    make_dock: MakeDock, viewer: Any, tmp_path: Path
) -> None:
    write_case(tmp_path)
    dock = make_dock()
    dock.review_session(open_session(tmp_path))
    dock.views.findings.decide("accepted")
    viewer.window.remove_dock_widget(dock)
    again = make_dock()
    again.review_session(open_session(tmp_path))
    assert again.review.case.read_only is None
    assert again.review.case.findings[0].status == "accepted"


def test_the_review_is_saved_when_the_window_is_asked_to_close(
    make_dock: MakeDock, viewer: Any, tmp_path: Path
) -> None:
    from qtpy.QtCore import QEvent

    write_case(tmp_path)
    dock = make_dock()
    dock.review_session(open_session(tmp_path))
    dock.views.findings.decide("accepted")
    files = dock.review.session.review_files("case")
    dock.eventFilter(viewer.window._qt_window, QEvent(QEvent.Type.Close))
    assert "accepted" in files.review.read_text()


@pytest.mark.parametrize("how", ["code", "window", "dock", "deleted"])
def test_closing_while_a_run_goes_on_cancels_it_and_nothing_deleted_is_touched(
    make_dock: MakeDock, viewer: Any, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_headclip_med.control.worker import LocalRunner
    from napari_headclip_med.files.reader import read_volume_files
    from qtpy.QtWidgets import QApplication

    engine, dock, source = Endless(), make_dock(), write_case(tmp_path)[0]
    errors: list[object] = []
    monkeypatch.setattr("sys.excepthook", lambda *error: errors.append(error))
    dock.run.runner = LocalRunner(lambda name: engine)
    for data, kwargs, _ in read_volume_files(str(source)):
        viewer.add_image(data, **kwargs)
    dock.review_session(open_session(tmp_path))
    dock.views.findings.decide("accepted")
    dock.settings_box.folder_edit.setText(str(tmp_path / "out"))
    dock.run.start()
    wait_for(lambda: dock.run_box.bar.value() > 2)
    background = dock.background
    if how == "code":
        viewer.close()
    elif how == "window":
        viewer.window._qt_window.close()
    elif how == "dock":
        viewer.window.remove_dock_widget(dock)
    else:  # by Qt, after the user has said yes to napari's question
        dock.setParent(None)
        dock.deleteLater()
    wait_for(lambda: engine.is_stopped)
    for _ in range(20):
        QApplication.processEvents()
    assert not background.is_busy
    assert errors == []
    assert not (tmp_path / "out").exists()
    with open_session(tmp_path) as session:
        case = session.open_case("case")
        assert case.read_only is None
        assert case.findings[0].status == "accepted"


def test_a_window_that_the_user_keeps_open_after_all_keeps_its_review(dock: Any, viewer: Any, tmp_path: Path) -> None:

    from qtpy.QtCore import QEvent

    write_case(tmp_path)
    dock.review_session(open_session(tmp_path))
    dock.views.findings.label.setText("oedema")
    dock.views.findings.label.setModified(True)
    asked = SimpleNamespace(type=lambda: QEvent.Type.Close, spontaneous=lambda: True)
    assert not dock.eventFilter(viewer.window._qt_window, asked)
    assert dock.review.case.findings[0].label == "oedema"
    assert "oedema" in dock.review.session.review_files("case").review.read_text()
    dock.views.findings.decide("accepted")
    assert dock.review.case.findings[0].status == "accepted"


def test_the_dock_opens_through_naparis_proxy_of_a_viewer(viewer: Any, tmp_path: Path) -> None:
    """``viewer.window.add_plugin_dock_widget`` and ``napari -w headclip-med`` hand over a proxy."""
    from napari.utils._proxies import PublicOnlyProxy
    from napari_headclip_med.widget import ReviewWidget

    write_case(tmp_path)
    dock = ReviewWidget(PublicOnlyProxy(viewer), store={})
    assert dock.viewer is viewer
    viewer.window.add_dock_widget(dock, name="by name")
    dock.review_session(open_session(tmp_path))
    viewer.window._qt_window.show()
    press(dock.views.cases.table, "8")
    assert dock.review.case.findings[0].status == "accepted"
    dock.close_all()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="X is Linux's")
@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "no screen: DISPLAY is not set"),
        ({"DISPLAY": ":9999"}, "no screen at DISPLAY=:9999"),
        ({"QT_QPA_PLATFORM": "nonsense"}, "Unset QT_QPA_PLATFORM, which is nonsense"),
    ],
)
def test_without_a_screen_words_say_what_is_missing(tmp_path: Path, environment: dict[str, str], words: str) -> None:
    """Qt ended the process, and a core file was all that it left."""
    write_case(tmp_path)
    kept = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    code = "from headclip_med.cli.main import main; main()"
    command = [sys.executable, "-c", code, "review", str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, env={**kept, **environment})
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "A window must be able to open" in said
    assert words in said
    assert "review-tables need no window" in said


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="file names of bytes")
def test_names_that_are_no_utf8_are_shown_kept_and_exported(dock: Any, tmp_path: Path) -> None:
    source, out = write_case(tmp_path)
    strange = os.fsdecode(b"caf\xe9")
    out.rename(out.with_name(strange))
    source.rename(source.with_name(strange + ".nii.gz"))
    dock.review_session(open_session(tmp_path))
    key = "caf%E9"
    assert dock.review.case.key == key
    assert [layer.name for layer in dock.layers.sources] == [key + ".nii.gz"], "found by its content"
    assert dock.views.cases.table.item(0, 0).text() == key
    assert key in dock.views.footer.provenance.text()
    dock.views.findings.decide("accepted")
    dock.tools.add_sequence(source.with_name(strange + ".nii.gz"))
    wait_for(lambda: not dock.background.is_busy)
    assert dock.views.display._boxes[1].text().startswith(key + ".nii.gz")
    dock.tools.export(tmp_path / strange, ["json", "csv", "nifti", "html"])
    wait_for(lambda: not dock.background.is_busy)
    assert status(dock) == f"4 files written to '{key}/{key}'."
    assert dock.review.case.findings[0].status == "accepted"
    dock.views.footer.status.say(strange, is_wrong=True)
    assert dock.views.footer.status.toolTip().startswith(key)
    dock.run_box.source.setText(strange)
    dock.review.open_folder(tmp_path / "results" / strange / "none", "anna", False)
    assert "must hold a result" in status(dock)


def test_a_drag_with_the_right_button_sets_the_window(dock: Any, viewer: Any, tmp_path: Path) -> None:

    write_case(tmp_path)
    dock.review_session(open_session(tmp_path))
    low, high = dock.layers.limits
    event = SimpleNamespace(type="mouse_press", button=2, pos=(100, 100), handled=False)
    drag = dock.drag._drag(viewer, event)
    next(drag)
    assert event.handled  # or the camera would zoom
    event.type, event.pos = "mouse_move", (200, 100)
    next(drag)
    wide_low, wide_high = dock.layers.limits
    assert wide_low < low < high < wide_high
    assert wide_low + wide_high == pytest.approx(low + high, rel=1e-4)


def test_labels_on_a_volume_keep_its_place(viewer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_headclip_med import commands
    from napari_headclip_med.files.reader import read_volume_files

    monkeypatch.setattr(commands, "front_viewer", lambda: viewer)
    with pytest.raises(InputError, match="A volume must be chosen"):
        commands.new_labels()
    source, _ = write_case(tmp_path)
    ((data, kwargs, _),) = read_volume_files(str(source))
    viewer.add_image(data, **kwargs)
    layer = commands.new_labels()
    np.testing.assert_allclose(layer.scale, viewer.layers[0].scale)
    np.testing.assert_allclose(
        layer.metadata["headclip_med"]["affine"], viewer.layers[0].metadata["headclip_med"]["affine"]
    )


def test_the_dock_opens_from_python_and_from_the_plugin_menu(viewer: Any, tmp_path: Path) -> None:
    from napari_headclip_med.launch import dock_of, open_review

    write_case(tmp_path)
    session = Session.open([tmp_path / "results"], session_dir=tmp_path / "session")
    open_review(session, sources=[tmp_path / "sources"], show=False, viewer=viewer)
    dock = dock_of(viewer)
    assert len(dock.layers.sources) == 1
    dock.close_all()
