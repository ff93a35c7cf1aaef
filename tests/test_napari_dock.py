"""Drawing, keys, display and the end of the review dock, in a real viewer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari_case import MISSED, open_session, paint, ras_of, status, wait_for, write_case

from headclip_med.errors import InputError
from headclip_med.review import Session

pytest.importorskip("napari")

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


def test_keys_do_what_they_say_and_can_be_changed(dock: Any, tmp_path: Path) -> None:
    write_case(tmp_path)
    dock.review_session(open_session(tmp_path))
    press(dock, "9")
    assert dock.review.case.findings[0].status == "rejected"
    press(dock, "U")
    assert dock.review.case.findings[0].status is None
    dock.help_box.changed.emit("accept", "G")
    press(dock, "G")
    assert dock.review.case.findings[0].status == "accepted"
    dock.help_box.changed.emit("accept", "V")
    assert "toggle_selected_visibility" in status(dock)
    assert dock.shortcuts.key("accept") == "G"


def press(dock: Any, key: str) -> None:
    """Activate the shortcut of a key."""
    found = [shortcut for shortcut in dock.keys._pressed if shortcut.key().toString() == key]
    assert len(found) == 1
    found[0].activated.emit()


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


def test_a_drag_with_the_right_button_sets_the_window(dock: Any, viewer: Any, tmp_path: Path) -> None:
    from types import SimpleNamespace

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
    from napari_headclip_med.reader import read_volume_files

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
