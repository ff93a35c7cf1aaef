"""Drawing in the review dock: what is kept is what is seen, whatever paints, erases, takes back or deletes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari_case import killed, open_session, paint, status, wait_for, write_case

from headclip_med.base.errors import OutputError
from headclip_med.review.store import ReviewStore

pytest.importorskip("napari")

HERE, THERE = (10, 4, 8), (3, 20, 8)  # voxels of one slice


@pytest.fixture(autouse=True)
def _without_collecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """napari collects garbage for half a second with every layer that it removes."""
    monkeypatch.setattr("napari._vispy.canvas.gc", SimpleNamespace(collect=lambda: 0))


@pytest.fixture
def drawing(dock: Any, tmp_path: Path) -> Any:
    """A dock with a case whose reader has the brush in hand."""
    write_case(tmp_path)
    dock.review_session(open_session(tmp_path))
    dock.views.draw.draw_button.click()
    dock.layers.drawn.brush_size = 3
    return dock


def spin() -> None:
    from qtpy.QtWidgets import QApplication

    for _ in range(5):
        QApplication.processEvents()


def seen(dock: Any) -> dict[str, int]:
    """Voxels on the drawn layer by region, once all events are through; the same as in the review and on the disk."""
    spin()
    layer = dock.layers.drawn
    assert layer in dock.viewer.layers
    numbers, counts = np.unique(np.asarray(layer.data), return_counts=True)
    found = {f"d{n}": int(c) for n, c in zip(numbers, counts, strict=True) if n}
    case = dock.review.case
    np.testing.assert_array_equal(case.drawn_labels(), dock.layers.grid.to_source(np.asarray(layer.data)))
    assert {key: one.finding.voxels for key, one in case.review.drawn.items()} == found
    rows = [dock.views.findings.table.item(n, 0).data(256) for n in range(dock.views.findings.table.rowCount())]
    assert [key for key in rows if key.startswith("d")] == sorted(found)
    assert layer.visible or not found
    return found


def stroke(dock: Any, voxel: tuple[int, int, int] = HERE, number: int | None = None) -> None:
    """A stroke as the mouse makes it, with the number in the brush or another one."""
    if number is not None:
        dock.layers.drawn.selected_label = number
    paint(dock, voxel)


def place(dock: Any, voxel: tuple[int, int, int]) -> tuple[int, ...]:
    """Where a voxel of the source lies in the drawn layer."""
    marked = np.zeros(dock.review.case.data.shape, dtype=bool)
    marked[voxel] = True
    return tuple(int(n) for n in np.argwhere(dock.layers.grid.view(marked))[0])


def test_a_stroke_taken_back_with_naparis_own_undo_is_not_kept(drawing: Any) -> None:
    """The picture was empty, and the review and every export kept the region."""
    layer = drawing.layers.drawn
    stroke(drawing)
    size = seen(drawing)["d1"]
    stroke(drawing, THERE)
    assert seen(drawing)["d1"] == 2 * size
    layer.undo()
    assert seen(drawing) == {"d1": size}
    layer.undo()
    assert seen(drawing) == {}
    layer.redo()
    assert seen(drawing) == {"d1": size}
    drawing.viewer.dims.set_point(0, drawing.viewer.dims.range[0].start)  # out of sight
    layer.undo()
    assert seen(drawing) == {}
    drawing.views.draw.keep_button.click()
    assert seen(drawing) == {}
    layer.redo()
    assert seen(drawing) == {"d1": size}
    layer.undo()
    drawing.review.actions.undo()  # our own brings it back
    assert seen(drawing) == {"d1": size}
    layer.undo()  # napari's history leads back from what is no longer there: it is empty
    assert seen(drawing) == {"d1": size}


def test_whatever_number_is_in_the_brush_what_is_painted_is_kept(drawing: Any) -> None:
    from napari.layers.labels._labels_key_bindings import decrease_label_id, increase_label_id, new_label

    layer = drawing.layers.drawn
    stroke(drawing, number=7)
    size = seen(drawing)["d7"]
    new_label(layer)  # the key M
    stroke(drawing, THERE)
    assert seen(drawing) == {"d7": size, "d8": size}
    increase_label_id(layer)
    decrease_label_id(layer)
    stroke(drawing, (10, 4, 2), number=65535)
    assert seen(drawing) == {"d7": size, "d8": size, "d65535": size}
    layer.mode = "pick"
    layer.selected_label = 8  # what the picker does
    stroke(drawing, HERE)
    assert seen(drawing) == {"d8": 2 * size, "d65535": size}
    drawing.views.draw.keep_button.click()
    drawing.views.draw.draw_button.click()
    assert layer.selected_label == 1, "65535 is the last label: a free one"


def test_erasing_filling_and_polygons_are_followed(drawing: Any) -> None:
    layer = drawing.layers.drawn
    stroke(drawing)
    before = seen(drawing)["d1"]
    layer.mode = "erase"
    layer.brush_size = 1
    with layer.block_history():
        layer.paint(place(drawing, HERE), 0)
    assert seen(drawing)["d1"] == before - 1
    layer.fill(place(drawing, (10, 5, 8)), 4)  # napari tells of it before it is done
    assert seen(drawing) == {"d4": before - 1}
    corners = np.array([place(drawing, v) for v in ((2, 18, 8), (2, 22, 8), (6, 18, 8))], dtype=float)
    layer.paint_polygon(corners, 9)
    assert set(seen(drawing)) == {"d4", "d9"}
    layer.fill(place(drawing, (10, 5, 8)), 0)
    assert set(seen(drawing)) == {"d9"}


@pytest.mark.parametrize(
    "how", ["in place", "another array", "whole numbers of another type", "deleted", "emptied list"]
)
def test_an_emptied_or_deleted_layer_leaves_picture_and_review_alike(drawing: Any, how: str) -> None:
    layer = drawing.layers.drawn
    stroke(drawing)
    size = seen(drawing)["d1"]

    def in_place() -> None:
        layer.data[...] = 0
        layer.refresh()

    {
        "in place": in_place,
        "another array": lambda: setattr(layer, "data", np.zeros_like(layer.data)),
        "whole numbers of another type": lambda: setattr(layer, "data", np.zeros(layer.data.shape, dtype=np.int64)),
        "deleted": lambda: drawing.viewer.layers.remove(layer),
        "emptied list": drawing.viewer.layers.clear,
    }[how]()
    if how in ("deleted", "emptied list"):  # looking is not deciding: the layers come back with what is kept
        wait_for(lambda: drawing.layers.is_whole())
        assert seen(drawing) == {"d1": size}
        assert not drawing.review.drawing.is_going_on
        assert "put back" in status(drawing)
    else:
        assert seen(drawing) == {}
        drawing.review.actions.undo()
        assert seen(drawing) == {"d1": size}


def test_our_own_undo_while_drawing_is_seen_and_drawing_goes_on(drawing: Any) -> None:
    stroke(drawing)
    size = seen(drawing)["d1"]
    stroke(drawing, THERE)
    drawing.review.actions.undo()
    assert seen(drawing) == {"d1": size}
    assert drawing.layers.drawn.mode == "paint"
    stroke(drawing, THERE)
    assert seen(drawing) == {"d1": 2 * size}
    drawing.views.draw.drop_button.click()
    assert seen(drawing) == {}
    drawing.review.actions.undo()
    assert seen(drawing) == {"d1": 2 * size}


def test_discarding_takes_back_what_was_painted_since_the_drawing_began_and_no_more(drawing: Any) -> None:
    stroke(drawing)
    drawing.views.draw.keep_button.click()
    before = seen(drawing)
    drawing.views.draw.draw_button.click()
    stroke(drawing, THERE)
    stroke(drawing, HERE, number=5)
    assert set(seen(drawing)) == {"d2", "d5"}
    drawing.views.draw.drop_button.click()
    assert seen(drawing) == before


def test_what_is_painted_with_naparis_tools_alone_is_kept(drawing: Any) -> None:
    drawing.views.draw.keep_button.click()
    drawing.layers.drawn.mode = "paint"
    stroke(drawing, number=3)
    assert set(seen(drawing)) == {"d3"}


def test_a_case_left_while_drawing_keeps_its_region_and_the_next_one_has_none(dock: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_case(tmp_path, name)
    dock.review_session(open_session(tmp_path), "one")
    dock.views.draw.draw_button.click()
    layer = dock.layers.drawn
    layer._begin_stroke()  # the mouse button is down
    layer.paint(place(dock, HERE), 1)
    dock.review.step_case(1)
    layer.paint(place(dock, THERE), 1)  # and moves on
    layer._commit_stroke()
    assert dock.review.case.key == "two"
    assert seen(dock) == {}
    assert not dock.review.drawing.is_going_on
    dock.review.open_case("one")
    voxels = seen(dock)["d1"]
    dock.views.draw.draw_button.click()
    stroke(dock, THERE, number=2)
    dock.review.close_session()
    assert len(dock.viewer.layers) == 0
    with open_session(tmp_path) as session:
        drawn = session.open_case("one").review.drawn
        assert drawn["d1"].finding.voxels == voxels
        assert set(drawn) == {"d1", "d2"}


def test_a_drawing_ends_with_its_case_even_where_a_script_opens_the_next_one(dock: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_case(tmp_path, name)
    dock.review_session(open_session(tmp_path), "one")
    stroke(dock)
    dock.views.draw.draw_button.click()
    dock.review.session.open_case("two")
    assert seen(dock) == {}
    assert not dock.review.drawing.is_going_on
    dock.review.drawing.drop()
    dock.review.drawing.keep()
    assert seen(dock) == {}


@pytest.mark.parametrize("why", ["full disk", "journal gone", "looking only"])
def test_what_cannot_be_kept_is_not_shown_either(
    drawing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    stroke(drawing)
    before = seen(drawing)
    todo: dict[str, Callable[[], object]] = {
        "full disk": lambda: monkeypatch.setattr(ReviewStore, "append", refuse),
        "journal gone": lambda: drawing.review.session.review_files("case").journal.unlink(),
        "looking only": lambda: setattr(drawing.review.case, "_store", None),
    }
    todo[why]()
    words = {"full disk": "disk is full", "journal gone": "must stay where it is", "looking only": "kept somewhere"}
    stroke(drawing, THERE)
    if why == "looking only":
        assert not drawing.layers.drawn.data.any(), "of a review that is not there"
    else:
        assert seen(drawing) == before
    assert words[why] in status(drawing)
    drawing.review.session.case = None  # what is taken away in this test cannot be saved


def refuse(store: Any, event: Any) -> None:
    raise OutputError("The folder must be writable", "the disk is full")


def test_a_review_to_look_at_has_no_brush(dock: Any, tmp_path: Path) -> None:
    write_case(tmp_path)
    with open_session(tmp_path) as elsewhere:
        elsewhere.open_case("case")
        dock.review_session(open_session(tmp_path))
        assert not dock.layers.drawn.editable
        dock.layers.drawn.data[2, 3, 4] = 1
        dock.layers.drawn.refresh()
        dock.review.drawing.follow()
        assert seen(dock) == {}
    killed_before = dock.review.case
    dock.review.open_case("case")  # it is free by now
    assert dock.review.case is not killed_before
    assert dock.review.case.read_only is None
    assert dock.layers.drawn.editable
    killed(dock.review.session)
    dock.review.session.case = None
