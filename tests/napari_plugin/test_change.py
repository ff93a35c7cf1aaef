"""Change of case in the review dock: all of it or nothing, whatever two cases are like and whatever goes wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from agreement import Agreement
from mixed_cases import KINDS, Kind, open_mixed, write_mixed
from napari_case import status, wait_for

from headclip_med.base.errors import OutputError

pytest.importorskip("napari")

TWO = tuple(kind for kind in KINDS if kind.name in ("axial", "twin", "sagittal", "polyp"))


@pytest.fixture(autouse=True)
def _without_collecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """napari collects garbage for half a second with every layer that it removes."""
    monkeypatch.setattr("napari._vispy.canvas.gc", SimpleNamespace(collect=lambda: 0))


def opened(dock: Any, folder: Path, first: str, kinds: tuple[Kind, ...] = TWO, **options: Any) -> Agreement:
    """These cases in the dock, one of them open; what must hold."""
    agreement = Agreement(dock, folder, write_mixed(folder, kinds), kinds)
    dock.review_session(open_mixed(folder, **options), first)
    agreement.check()
    return agreement


def decisions(dock: Any, folder: Path) -> dict[str, list[str]]:
    """Statuses in the journals on the disk, by case."""
    session = open_mixed(folder, reader=dock.review.session.reader)
    found = {entry.key: session._peek(session._found[entry.key])[0] for entry in session.cases}
    return {key: sorted(str(f.status) for f in review.findings.values()) for key, review in found.items() if review}


def test_cases_of_different_size_plane_unit_and_colour_follow_each_other(dock: Any, tmp_path: Path) -> None:
    """The second one raised, and its journal took what was decided on the picture of the first."""
    agreement = opened(dock, tmp_path, "axial", KINDS)
    for name in ("twin", "polyp", "sagittal", "xray", "ct", "gone", "oblique", "normal", "coronal", "axial"):
        dock.views.cases.chosen.emit(name)
        assert dock.review.case.key == name
        agreement.check()
        dock.views.findings.decide("accepted")
        agreement.check()
    made = decisions(dock, tmp_path)
    assert made == {kind.name: ["accepted"] * bool(kind.heights) for kind in KINDS}


def test_what_is_typed_dragged_and_painted_stays_in_the_case_it_was_meant_for(dock: Any, tmp_path: Path) -> None:
    """Two cases of one grid have findings of one name: words typed for one must not reach the other."""
    agreement = opened(dock, tmp_path, "axial")
    axial, keys = dock.review.case, [row.id for row in dock.review.case.findings]
    dock.views.findings.label.setText("axial typed")
    dock.views.findings.label.setModified(True)
    dock.views.threshold.number.setValue(0.3)
    dock.views.draw.draw_button.click()
    dock.layers.drawn.data[2, 3, 4] = 1
    dock.views.opinion.ratings["abnormal"].click()
    dock.review.open_case("twin")
    twin = dock.review.case
    assert [row.id for row in twin.findings] == list(reversed(keys)), "the same names"
    agreement.check()
    assert (twin.review.findings, twin.review.drawn, twin.threshold) == ({}, {}, 0.5)
    assert dock.views.opinion.rating is None
    assert axial.threshold == pytest.approx(0.3)
    assert [f.label for f in axial.review.findings.values()] == ["axial typed"]
    assert axial.review.drawn["d1"].finding.voxels == 1


FAULTS = ["source", "prepare", "one layer", "last layer", "overlay", "words", "view"]


@pytest.mark.parametrize("is_there_a_way_back", [True, False], ids=["and back", "and no way back"])
def test_a_change_that_fails_anywhere_leaves_the_case_before_open_or_none(
    dock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there_a_way_back: bool
) -> None:
    from napari_headclip_med.control import review as review_control
    from napari_headclip_med.layers.case import CaseLayers

    from headclip_med.review.store import ReviewStore

    agreement = opened(dock, tmp_path, "axial")
    places: dict[str, tuple[Any, str, int]] = {
        "source": (review_control, "match_source", 0),
        "prepare": (review_control, "picture_of", 0),
        "one layer": (CaseLayers, "_put", 1),
        "last layer": (CaseLayers, "_add", 0),
        "overlay": (ReviewStore, "append", 0),
        "words": (dock.views.slices, "show_slices", 0),
        "view": (dock.layers, "jump", 0),
    }
    for fault in FAULTS:
        owner, name, wait = places[fault]
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, failing(getattr(owner, name), wait, for_good=not is_there_a_way_back))
            dock.review.open_case("sagittal")
        is_early = fault in ("source", "prepare") or (fault == "overlay" and not is_there_a_way_back)
        if is_there_a_way_back or is_early:
            assert "sagittal cannot be opened" in status(dock), fault
            assert status(dock).endswith("Still open: axial."), fault
            assert dock.review.case.key == "axial", fault
        else:
            assert status(dock).endswith("No case is open."), fault
            assert dock.review.session.case is None
            dock.views.findings.decide("accepted")
            dock.review.actions.decide("f1-1-1", "accepted")
            dock.review.actions.undo()
            dock.review.actions.give_opinion("normal", 3)
        agreement.check()
        assert "sagittal" not in decisions(dock, tmp_path), fault
        dock.review.open_case("axial")
        dock.views.findings.decide("rejected")
        agreement.check()
    dock.review.open_case("sagittal")
    assert dock.review.case.key == "sagittal"
    agreement.check()


def failing(function: Callable[..., Any], wait: int, for_good: bool) -> Callable[..., Any]:
    """A function that fails after some calls, once, or on the way back as well."""
    calls = [0]

    def fails(*given: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == wait + 1 or (for_good and calls[0] == wait + 2):
            raise OutputError("The disk must have room", "none") if wait == 0 else RuntimeError("no such texture")
        return function(*given, **named)

    return fails


@pytest.mark.parametrize("what", ["map altered", "map gone", "deleted", "record damaged"])
def test_a_case_that_went_meanwhile_is_told_and_passed_over(dock: Any, tmp_path: Path, what: str) -> None:
    agreement = opened(dock, tmp_path, "axial")
    result = agreement.results["sagittal"]
    {
        "map altered": lambda: (result / "anomaly_map.nii.gz").write_bytes(b"x"),
        "map gone": lambda: (result / "anomaly_map.nii.gz").unlink(),
        "deleted": lambda: shutil.rmtree(result),
        "record damaged": lambda: (result / "result.json").write_text("{"),
    }[what]()
    dock.views.cases.table.selectRow([entry.key for entry in dock.review.session.cases].index("sagittal"))
    assert "sagittal cannot be opened" in status(dock)
    assert status(dock).endswith("Still open: axial.")
    agreement.check()
    keys = [dock.review.case.key]
    for _ in range(5):
        dock.views.cases.next_button.click()
        agreement.check()
        keys.append(dock.review.case.key)
    assert list(dict.fromkeys(keys)) == ["axial", "polyp", "twin"]
    dock.review.open_case("axial")
    shutil.rmtree(agreement.results["axial"])
    dock.views.findings.decide("accepted")
    assert "must stay where it is" in status(dock)
    assert dock.review.case.findings[0].status is None
    agreement.check()
    dock.views.threshold.number.setValue(0.3)
    wait_for(lambda: dock.review.threshold.dragged is None and not dock.background.is_busy)
    assert "must stay where it is" in status(dock)
    assert dock.views.threshold.value == 0.5, "what cannot be kept is not shown either"
    agreement.check()


def test_another_folder_that_cannot_be_reviewed_leaves_the_review_open(dock: Any, tmp_path: Path) -> None:
    agreement = opened(dock, tmp_path / "one", "axial", reader="anna")
    other = write_mixed(tmp_path / "two", TWO[:1])
    for path in other.values():
        (path / "anomaly_map.nii.gz").write_bytes(b"x")
    dock.review.open_folder(tmp_path / "two" / "results", "ben", False)
    assert status(dock).endswith("the list says why. Still open: axial.")
    assert dock.review.session.reader == dock.settings_box.reader == "anna"
    agreement.check()
    dock.review.open_folder(tmp_path / "nothing", "ben", False)
    assert "must hold a result" in status(dock)
    dock.views.findings.decide("accepted")
    agreement.check()
    # the same folder again, while its journal is locked by ourselves
    dock.review_session(open_mixed(tmp_path / "one", reader="anna"), "axial")
    assert dock.review.case.read_only is None
    assert dock.review.case.findings[0].status == "accepted"
    agreement.check()


def test_a_case_that_a_script_opens_in_the_session_is_followed_by_the_window(dock: Any, tmp_path: Path) -> None:
    agreement = opened(dock, tmp_path, "axial")
    session = dock.review.session
    session.open_case("polyp")
    agreement.check()
    session.case.judge(session.case.findings[0].id, "accepted")
    agreement.check()
    session.close_case()
    agreement.check()
    assert dock.review.case is None
    session.open_case("axial")
    agreement.check()


def test_layers_that_are_deleted_moved_turned_or_refilled_by_hand_are_put_back(dock: Any, tmp_path: Path) -> None:
    agreement = opened(dock, tmp_path, "axial")
    layers = dock.layers

    def each(change: Callable[[Any], object], *names: str, is_decided: bool = False) -> None:
        for name in names:
            before = dock.review.case.review
            change(layers.sources[0] if name == "source" else getattr(layers, name))
            dock.views.findings.decide("accepted")
            agreement.check()
            assert (dock.review.case.review != before) == is_decided, "nothing is decided on another picture"
            if not is_decided:
                assert status(dock).endswith("were put back.")

    each(dock.viewer.layers.remove, "source", "map", "contours", "drawn", is_decided=True)
    each(lambda layer: setattr(layer, "translate", np.array(layer.translate) + 5), "map")
    each(lambda layer: setattr(layer, "affine", np.diag([1.0, 2, 1, 1])), "source")
    each(lambda layer: setattr(layer, "data", np.ones((3, 4, 5), dtype=layer.data.dtype)), "contours", "drawn")
    each(lambda layer: setattr(layer, "name", "renamed"), "map", "drawn", is_decided=True)
    each(lambda layer: dock.viewer.layers.move(dock.viewer.layers.index(layer), 0), "map", is_decided=True)
    dock.viewer.layers.clear()
    wait_for(lambda: len(dock.viewer.layers) == 4)  # at once, not only with the next action
    agreement.check()
    layers.map.data = np.zeros(layers.map.data.shape, dtype=np.float32)  # the grid, other values
    assert layers.shown() is None
    dock.views.findings.decide("rejected")
    agreement.check()
    assert "rejected" not in decisions(dock, tmp_path)["axial"]


def test_of_two_docks_in_one_viewer_only_the_one_whose_case_is_in_sight_takes_decisions(
    make_dock: Callable[[], Any], tmp_path: Path
) -> None:
    one, two = make_dock(), make_dock()
    opened(one, tmp_path / "one", "axial", TWO[:2])
    agreement = opened(two, tmp_path / "two", "sagittal", TWO)
    assert not one.layers.map.visible
    one.views.findings.decide("accepted")
    assert one.review.case.review.findings == {}
    assert one.layers.map.visible, "it is in sight again, and the other one is not"
    assert not two.layers.map.visible
    one.views.findings.decide("accepted")
    assert decisions(one, tmp_path / "one")["axial"] == ["accepted"]
    two.views.findings.decide("rejected")
    agreement.check()
    two.views.findings.decide("rejected")
    agreement.check()
    assert decisions(two, tmp_path / "two") == {"sagittal": ["rejected"]}


def test_a_layer_of_the_case_cannot_be_deleted_from_the_layer_list(dock: Any, tmp_path: Path) -> None:
    opened(dock, tmp_path, "axial")
    if not hasattr(dock.layers.map, "locked"):
        pytest.skip("napari before 0.9")
    dock.viewer.layers.select_all()
    dock.viewer.layers.remove_selected()
    assert len(dock.viewer.layers) == 4
    dock.layers.map.locked = False
    dock.review.open_case("twin")
    assert all(layer.locked for layer in dock.viewer.layers)


@pytest.mark.parametrize("order", ["before the case", "over the case"])
def test_the_dock_counts_sliders_from_the_right_beside_a_layer_of_more_axes(
    dock: Any, viewer: Any, tmp_path: Path, order: str
) -> None:
    """A jump moved the other layer's axis, and the slice named in the dock was not the one shown."""
    if order == "before the case":
        viewer.add_image(np.random.default_rng(0).random((4, 6, 20, 20)), name="series")
    agreement = opened(dock, tmp_path, "axial", KINDS[:2])
    if order == "over the case":
        viewer.add_image(np.random.default_rng(0).random((2, 4, 6, 20, 20)), name="series")
        dock.review.mend()  # which hides it
    for kind in KINDS[:2]:
        dock.review.open_case(kind.name)
        agreement.check()
        case = dock.review.case
        assert dock.layers.current_index() == case.start_slice()
        for index in (0, 3, case.data.shape[case.data.axis] - 1):
            dock.review.jump(index)
            assert dock.layers.current_index() == index
            agreement.check()
        for plane, letters in (("axial", "RLAP"), ("coronal", "RLSI"), ("sagittal", "APSI")):
            dock.review.show_plane(plane)
            assert "".join(dock.orientation.letters) == letters
            agreement.check()
        dock.review.threshold.preview(0.3)
        dock.review.jump(2)
        dock.review.go_to_finding(case.findings[0].id)
        agreement.check()
        for _ in range(2):
            viewer.dims.roll()
            agreement.check()


def test_a_layer_in_smaller_units_does_not_move_the_slices(dock: Any, viewer: Any, tmp_path: Path) -> None:
    opened(dock, tmp_path, "axial", KINDS[:1])
    if not hasattr(viewer.dims, "units"):
        pytest.skip("napari before 0.9")
    viewer.add_image(np.zeros((40, 40, 40)), scale=(500, 500, 500), units=("um",) * 3, name="microscope")
    for index in (3, 9):
        dock.review.jump(index)
        assert dock.layers.current_index() == index
        step = dock.layers.grid.display_index(2, index, 16)
        np.testing.assert_array_equal(dock.layers.map._slice.image.raw, dock.layers.map.data[step])


def test_nothing_is_decided_while_a_run_is_on_the_screen_and_the_case_comes_back(dock: Any, tmp_path: Path) -> None:
    from napari_headclip_med.layers.picture import picture_of_run

    agreement = opened(dock, tmp_path, "axial")
    volume = agreement.sources["sagittal"]
    case = dock.review.case
    dock.review.make_room()
    dock.layers.open(picture_of_run(volume, np.asarray(volume.affine), 0))
    assert "A run is on the screen" in status(dock)
    dock.views.findings.decide("accepted")
    dock.review.actions.decide(case.findings[0].id, "accepted")
    dock.views.draw.begun.emit()
    assert dock.review.session.case is None
    assert not dock.views.draw.draw_button.isEnabled()
    dock.review.come_back()
    assert dock.review.case.key == "axial"
    assert dock.review.case.review.findings == {}
    agreement.check()
    dock.review.make_room()
    dock.layers.open(picture_of_run(volume, np.asarray(volume.affine), 0))
    dock.views.cases.chosen.emit("polyp")
    agreement.check()
    assert not dock.layers.is_run


def test_a_sequence_or_heads_that_come_late_are_not_shown_on_another_case(dock: Any, tmp_path: Path) -> None:
    agreement = opened(dock, tmp_path, "axial")
    dock.tools.add_sequence(tmp_path / "sources" / "axial.nii.gz")
    dock.review.open_case("twin")
    wait_for(lambda: not dock.background.is_busy)
    assert len(dock.layers.sources) == 1
    assert "belongs to axial, which is not open any more" in status(dock)
    agreement.check()
    dock.tools.add_sequence(tmp_path / "sources" / "axial.nii.gz")
    wait_for(lambda: not dock.background.is_busy)
    beside = dock.layers.sources[1]
    assert dock.viewer.layers.index(beside) == 1, "above the source, below the map"
    dock.viewer.layers.remove(beside)
    dock.views.findings.decide("accepted")
    assert len(dock.layers.sources) == 2, "put back as the others are"
    dock.review.open_case("sagittal")
    agreement.check()
    assert [layer.name for layer in dock.viewer.layers][:2] == ["sagittal.nii.gz", "anomaly map"]


def test_a_plain_picture_has_no_millimetres_and_no_patient(dock: Any, viewer: Any, tmp_path: Path) -> None:
    agreement = opened(dock, tmp_path, "axial")
    assert "".join(dock.orientation.letters) == "RLAP"
    dock.switch_sides()  # neurological: a picture is not mirrored for that
    dock.review.open_case("polyp")
    agreement.check()
    assert "".join(dock.orientation.letters) == ""
    assert [str(side) for side in dock.orientation._camera.orientation2d] == ["down", "right"]
    table, case = dock.views.findings.table, dock.review.case
    assert [table.horizontalHeaderItem(n).text() for n in (2, 3)] == ["pixels", "centre (x, y)"]
    finding = case.findings[0].finding
    assert [table.item(0, n).text() for n in (2, 3)] == [str(finding.voxels), "16, 12"]
    assert f"{finding.voxels} pixels, centre at column 16, row 12" in table.item(0, 0).toolTip()
    assert "m" not in table.item(0, 2).text() + table.item(0, 3).text()
    assert not dock.views.display.convention.isEnabled()
    dock.review.open_case("axial")
    assert "".join(dock.orientation.letters) == "LRAP"
    assert table.horizontalHeaderItem(2).text() == "ml"
    agreement.check()


def test_letters_are_those_of_the_volume_on_the_screen_or_none(dock: Any, viewer: Any, tmp_path: Path) -> None:
    from napari_headclip_med.files.reader import read_result_folder, read_volume_files

    results = write_mixed(tmp_path, tuple(kind for kind in KINDS if kind.name in ("axial", "polyp", "oblique")))
    viewer.add_image(np.zeros((4, 5, 6)))
    assert "".join(dock.orientation.letters) == "", "no patient is known"
    for path, letters in (("axial.nii.gz", "RLAP"), ("oblique.nii.gz", "RALPALPR"), ("polyp.png", "")):
        viewer.layers.clear()
        for data, kwargs, _ in read_volume_files(str(tmp_path / "sources" / path)):
            viewer.add_image(data, **kwargs)
        assert "".join(dock.orientation.letters) == letters
    viewer.layers.clear()
    for data, kwargs, kind in read_result_folder(str(results["polyp"])):
        assert kwargs["units"] == ("pixel",) * 3
        (viewer.add_image if kind == "image" else viewer.add_labels)(data, **kwargs)
    assert "".join(dock.orientation.letters) == ""


def test_warnings_of_a_result_are_seen_without_scrolling(dock: Any, tmp_path: Path) -> None:
    opened(dock, tmp_path, "axial", TWO)
    line = dock.views.warnings
    assert line.isHidden()
    dock.review.open_case("sagittal")
    assert not line.isHidden()
    assert line.text() == "⚠ made for FLAIR, given T1 (and 1 more)"
    assert "background" in line.styleSheet()
    assert line.toolTip().splitlines() == ["⚠ made for FLAIR, given T1", "⚠ second"]
    assert dock.layout().indexOf(line) == 0, "above the tabs, which scroll"
    line.show_warnings(["word " * 100])
    assert len(line.text()) < 200
    assert line.text().endswith("…")
    assert len(line.toolTip()) > 400
    dock.review.open_case("axial")
    assert line.isHidden()


def test_settings_show_the_reader_of_the_session(dock: Any, tmp_path: Path) -> None:
    """What a run leaves was reviewed as somebody else."""
    opened(dock, tmp_path, "axial", TWO[:1], reader="anna", unaided_first=True)
    box = dock.settings_box
    assert (box.reader, box.is_unaided_first) == ("anna", True)
    assert "the review of anna" in box.words.text()
    box.reader_edit.editingFinished.emit()
    assert dict(box._store) == {}, "what is only shown is not chosen for other times"
    box.reader_edit.setText("ben")
    box.reader_edit.setModified(True)
    box.reader_edit.editingFinished.emit()
    assert box._store == {"reader": "ben"}
    assert dock.review.session.reader == "anna"
    dock.review.close_session()
    assert "anna" not in box.words.text()


# -- nothing is decided, and nothing stays, of another patient's picture


def _image(viewer: Any, **look: Any) -> Any:
    return viewer.add_image(np.ones((16, 24, 20), np.float32), scale=(3, 2, 2), **look)


COVERS: dict[str, Callable[[Any], Any]] = {
    "image": _image,
    "half seen": lambda viewer: _image(viewer, opacity=0.3, blending="additive"),
    "colours": lambda viewer: viewer.add_image(np.ones((16, 24, 20, 3), np.uint8), rgb=True),
    "labels": lambda viewer: viewer.add_labels(np.ones((16, 24, 20), np.uint8)),
    "surface": lambda viewer: viewer.add_surface((np.eye(3), np.array([[0, 1, 2]]), np.ones(3))),
    "below": lambda viewer: viewer.layers.move(viewer.layers.index(_image(viewer)), 0),
}


@pytest.mark.parametrize("cover", COVERS)
def test_nothing_is_decided_below_another_picture(dock: Any, viewer: Any, tmp_path: Path, cover: str) -> None:
    agreement = opened(dock, tmp_path, "axial", TWO[:1])
    before = set(viewer.layers)
    COVERS[cover](viewer)
    (other,) = set(viewer.layers) - before
    assert dock.layers.shown() is None, "a script that acts on the session is refused as well"
    for act in (
        lambda: dock.views.findings.decide("accepted"),
        lambda: dock.review.actions.give_opinion("abnormal", 90),
        lambda: dock.review.actions.set_done(True),
    ):
        other.visible = True
        review = dock.review.case.review
        act()
        assert dock.review.case.review == review
        assert "covered" in status(dock)
        assert not other.visible
        agreement.check()
    dock.views.findings.decide("accepted")
    assert dock.review.case.findings[0].status == "accepted"


@pytest.mark.parametrize("harmless", ["points", "shapes", "hidden", "without opacity"])
def test_what_a_reader_marks_and_what_nobody_sees_covers_nothing(
    dock: Any, viewer: Any, tmp_path: Path, harmless: str
) -> None:
    opened(dock, tmp_path, "axial", TWO[:1])
    {
        "points": lambda: viewer.add_points(np.zeros((1, 3))),
        "shapes": lambda: viewer.add_shapes(np.array([[0, 0, 0], [0, 9, 9.0]]), shape_type="line"),
        "hidden": lambda: _image(viewer, visible=False),
        "without opacity": lambda: _image(viewer, opacity=0),
    }[harmless]()
    dock.views.findings.decide("accepted")
    assert dock.review.case.findings[0].status == "accepted"


def test_words_typed_below_another_picture_are_kept(dock: Any, viewer: Any, tmp_path: Path) -> None:
    opened(dock, tmp_path, "axial")
    axial = dock.review.case
    dock.views.findings.label.setText("oedema")
    dock.views.findings.label.setModified(True)
    _image(viewer)
    dock.review.open_case("twin")
    assert [found.label for found in axial.review.findings.values()] == ["oedema"]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "bool", "int16"])
def test_a_drawing_turned_into_a_type_too_narrow_is_put_back(dock: Any, tmp_path: Path, dtype: str) -> None:
    agreement = opened(dock, tmp_path, "axial", TWO[:1])
    mask = np.zeros(dock.review.case.data.shape, np.uint16)
    mask[2:4, 3, 4] = 200
    dock.review.case.set_drawn_labels(mask)
    dock.layers.drawn.data = dock.layers.drawn.data.astype(dtype)
    dock.views.findings.decide("accepted")
    assert list(dock.review.case.review.drawn) == ["d200"]
    assert set(np.unique(dock.layers.drawn.data)) == {0, 200}
    agreement.check()


@pytest.mark.parametrize("what", ["contours", "one voxel of the contours", "preview"])
def test_contours_that_are_changed_in_place_are_put_right(dock: Any, tmp_path: Path, what: str) -> None:
    agreement = opened(dock, tmp_path, "axial", TWO[:1])
    data = dock.layers.contours.data
    if what == "preview":
        dock.review.threshold.preview(0.3)
    if what == "one voxel of the contours":
        data[dock.layers._view.here()[0], 0, 0] = 1
    else:
        data[...] = 0
    dock.views.findings.decide("accepted")
    assert dock.review.case.review.findings == {}
    assert status(dock).endswith("were put back.")
    agreement.check()
    dock.views.findings.decide("accepted")
    assert dock.review.case.findings[0].status == "accepted"


def test_values_of_source_map_and_sequence_cannot_be_changed_in_place(dock: Any, tmp_path: Path) -> None:
    opened(dock, tmp_path, "polyp")
    dock.review.open_case("axial")
    dock.layers.add_sequence("beside", np.ones(dock.review.case.data.shape, np.float32))
    for layer in (*dock.layers.sources, dock.layers.map):
        with pytest.raises(ValueError, match="read-only"):
            layer.data[...] = 0


LOOKS: dict[str, dict[str, Any]] = {
    "source": {"opacity": 0.0, "gamma": 3.0, "projection_mode": "max", "blending": "minimum", "colormap": "red"},
    "map": {"opacity": 0.0, "gamma": 0.2, "blending": "opaque", "interpolation2d": "linear", "rendering": "minip"},
    "contours": {"opacity": 0.0, "blending": "opaque", "show_selected_label": True, "contour": 3, "visible": False},
}


@pytest.mark.parametrize("name", LOOKS)
@pytest.mark.parametrize("second", ["twin", "sagittal", "polyp"])
def test_no_setting_of_one_patient_is_left_for_the_next(dock: Any, tmp_path: Path, name: str, second: str) -> None:
    def layer() -> Any:
        return dock.layers.sources[0] if name == "source" else getattr(dock.layers, name)

    def look() -> dict[str, Any]:
        return {key: str(getattr(layer(), key)) for key in LOOKS[name] if hasattr(layer(), key)}

    opened(dock, tmp_path, second)
    wanted = look()
    dock.review.open_case("axial")
    for key, value in LOOKS[name].items():
        setattr(layer(), key, value)
    dock.viewer.dims.margin_left = dock.viewer.dims.margin_right = (9.0, 9.0, 9.0)
    dock.review.open_case(second)
    assert look() == wanted
    assert not any((*dock.viewer.dims.margin_left, *dock.viewer.dims.margin_right))


def test_nothing_is_decided_on_several_slices_at_once(dock: Any, tmp_path: Path) -> None:
    agreement = opened(dock, tmp_path, "axial", TWO[:1])
    dock.layers.sources[0].projection_mode = "max"
    dock.viewer.dims.margin_right = (20.0, 20.0, 20.0)
    dock.views.findings.decide("accepted")
    assert dock.review.case.review.findings == {}
    agreement.check()
    dock.views.findings.decide("accepted")
    assert dock.review.case.findings[0].status == "accepted"


@pytest.mark.parametrize("change", ["another case", "another session", "closed", "a run"])
def test_heads_go_with_their_case(dock: Any, tmp_path: Path, change: str) -> None:
    from PIL import Image

    opened(dock, tmp_path, "axial", TWO[:2])
    dock.heads_box.show_words("flair.nii.gz, axial slice 3")
    dock.heads_box.show_picture(Image.new("RGB", (20, 20)))
    {
        "another case": lambda: dock.review.open_case("sagittal"),
        "another session": lambda: dock.review_session(open_mixed(tmp_path, reader="ben"), "axial"),
        "closed": dock.review.close_session,
        "a run": dock.review.make_room,
    }[change]()
    assert dock.heads_box.words.text() == ""
    assert dock.heads_box.picture.isHidden()


def test_nothing_is_exported_before_the_first_opinion(dock: Any, tmp_path: Path) -> None:
    opened(dock, tmp_path, "axial", TWO[:1], unaided_first=True)
    assert not dock.views.export.button.isEnabled()
    for formats in (["html"], ["json"], ["csv", "nifti", "png"]):
        dock.tools.export(tmp_path / "exported", formats)
        assert "must wait for the first opinion" in status(dock)
    assert not (tmp_path / "exported").exists()
    dock.review.actions.give_opinion("normal", 80)
    assert dock.views.export.button.isEnabled()
    dock.tools.export(tmp_path / "exported", ["html"])
    wait_for(lambda: not dock.background.is_busy)
    assert (tmp_path / "exported" / "axial" / "review.html").exists()


def test_a_sequence_stays_when_the_first_opinion_brings_the_overlay(dock: Any, tmp_path: Path) -> None:
    opened(dock, tmp_path, "axial", TWO[:1], unaided_first=True)
    dock.layers.add_sequence("beside", np.ones(dock.review.case.data.shape, np.float32))
    dock.review.actions.give_opinion("abnormal", 50)
    assert [layer.name for layer in dock.layers.sources] == ["axial.nii.gz", "beside"]
    assert dock.layers.map.visible


@pytest.mark.parametrize("what", ["export", "sequence", "heads"])
def test_what_fails_in_a_thread_is_told(dock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The worker kept errors to itself: the status said "Exporting…" for ever."""
    opened(dock, tmp_path, "axial", TWO[:1])
    (tmp_path / "exported").write_text("a file")
    (tmp_path / "words.nii.gz").write_text("no image")
    {
        "export": lambda: dock.tools.export(tmp_path / "exported", ["json"]),
        "sequence": lambda: dock.tools.add_sequence(tmp_path / "words.nii.gz"),
        "heads": dock.tools.show_heads,
    }[what]()
    wait_for(lambda: not dock.background.is_busy)
    words = dock.heads_box.words.text() if what == "heads" else status(dock)
    assert "must" in words
    assert "given" in words
    assert dock.heads_box.button.isEnabled()
