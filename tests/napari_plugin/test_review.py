"""The review dock in a real viewer: the whole story, and everything that must not go wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from napari_case import PEAKS, SHAPE, Endless, contour_at, killed, open_session, ras_of, status, wait_for, write_case
from small_cases import write_volume

pytest.importorskip("napari")

MakeDock = Callable[[], Any]


# -- the story


def test_open_run_jump_threshold_decide_draw_kill_and_reopen(
    dock: Any, make_dock: MakeDock, viewer: Any, tiny_pack: Path, tmp_path: Path, npe2pm: Any
) -> None:
    npe2 = pytest.importorskip("npe2")
    npe2pm.register(npe2.PluginManifest.from_distribution("headclip-med"))
    scan = write_volume(tmp_path / "in" / "scan.nii.gz", shape=(40, 44, 12))
    viewer.open(str(scan), plugin="headclip-med")
    assert dock.run_box.source.text() == "scan"

    # run: maps appear as they come
    came: list[int] = []
    show = dock.run._show_slices
    dock.run._show_slices = lambda event: (show(event), came.append(len(dock.run._scores)))
    dock.settings_box.folder_edit.setText(str(tmp_path / "out"))
    dock.run_box.model.setCurrentText(str(tiny_pack))
    dock.run_box.run_button.click()
    wait_for(lambda: not dock.run.is_running)
    assert came == [8, 12], "as many slices at once as a CPU takes of so small a model"
    case = dock.review.case
    assert case is not None, status(dock)
    assert (tmp_path / "out" / "scan" / "result.json").is_file()
    assert [layer.name for layer in dock.layers.sources] == ["scan.nii.gz [1]"]

    # it opens on the most suspicious slice, and jumps from there
    order = [row.index for row in case.slices("score") if not row.background]
    assert dock.layers.current_index() == order[0]
    dock.review.step_suspicious(1)
    assert dock.layers.current_index() == order[1]
    dock.views.slices.curve.jumped.emit(3)
    assert dock.layers.current_index() == 3
    assert dock.views.slices.table.chosen() == 3

    # threshold: between the map's values, so that there are several findings
    values = np.sort(case.data.volume_map[case.data.volume_map > 0])
    dock.views.threshold.number.setValue(float(values[int(0.995 * len(values))]))
    wait_for(lambda: abs(case.threshold - dock.views.threshold.value) < 1e-9)
    keys = [row.id for row in case.findings]
    assert len(keys) >= 2

    # accept one, reject one
    dock.views.findings.choose(keys[0])
    dock.views.findings.decide("accepted")
    dock.views.findings.label.setText("oedema")
    dock.views.findings.label.setModified(True)
    dock.views.findings.label.editingFinished.emit()
    dock.views.findings.step(1)
    dock.views.findings.decide("rejected")

    # draw a missed one, in two strokes; undo takes one back
    dock.views.draw.draw_button.click()
    layer = dock.layers.drawn
    assert layer.mode == "paint"
    layer.brush_size = 3
    for place in ((5, 5, 2), (30, 30, 2)):
        step = dock.layers.grid.display_index(2, place[2], 12)
        layer.paint((step, 40 - place[1], 30 - place[0]), 1)
        layer.events.paint(value=[])
    voxels = case.review.drawn["d1"].finding.voxels
    dock.views.draw.keep_button.click()
    assert layer.mode == "pan_zoom"
    dock.views.footer.undo_button.click()
    assert case.review.drawn["d1"].finding.voxels < voxels
    dock.views.footer.redo_button.click()
    assert case.review.drawn["d1"].finding.voxels == voxels

    # killed: nothing was saved at the end, and everything is there
    threshold, review = case.threshold, case.review
    killed(dock.review.session)
    dock.review.session = None
    dock.review.close_session()
    again = make_dock()
    again.review.open_folder(tmp_path / "out", "reader", False)
    assert again.review.case.review == review
    assert again.views.threshold.value == pytest.approx(threshold, abs=1e-3)
    assert [row.status for row in again.review.case.findings[:2]] == ["accepted", "rejected"]
    assert again.review.case.findings[0].label == "oedema"
    assert (again.layers.drawn.data == 1).sum() == voxels
    assert again.review.case.read_only is None


# -- places


def test_the_lesion_lies_at_its_millimetres_in_the_viewer_and_in_the_exported_file(
    dock: Any, viewer: Any, tmp_path: Path
) -> None:
    write_case(tmp_path)
    dock.review_session(open_session(tmp_path))
    world = dock.layers.grid.world_of(ras_of(PEAKS[0]))
    np.testing.assert_allclose(viewer.dims.point, world, atol=0.51 * max(dock.layers.grid.scale))
    assert dock.layers.map.get_value(world, world=True) == pytest.approx(0.95, abs=1e-3)
    assert dock.layers.sources[0].get_value(world, world=True) == pytest.approx(900)
    dock.views.findings.decide("accepted")
    dock.tools.export(tmp_path / "exported", ["nifti", "csv"])
    wait_for(lambda: not dock.background.is_busy)
    image = nib.load(tmp_path / "exported" / "case" / "accepted_mask.nii.gz")
    inside = nib.affines.apply_affine(image.affine, np.argwhere(np.asarray(image.dataobj) > 0))
    np.testing.assert_allclose(inside.mean(axis=0), ras_of(PEAKS[0]), atol=0.5)


def test_choosing_a_finding_goes_to_its_peak(dock: Any, viewer: Any, tmp_path: Path) -> None:
    write_case(tmp_path)
    dock.review_session(open_session(tmp_path))
    dock.views.findings.step(1)
    np.testing.assert_allclose(viewer.dims.point, dock.layers.grid.world_of(ras_of(PEAKS[1])), atol=1e-6)
    assert dock.layers.current_index() == PEAKS[1][2]


# -- threshold


def test_a_drag_of_the_threshold_changes_the_slice_at_once_and_the_volume_later(dock: Any, tmp_path: Path) -> None:
    write_case(tmp_path)
    dock.review_session(open_session(tmp_path))
    case = dock.review.case
    beside = (PEAKS[0][0] + 3, PEAKS[0][1], PEAKS[0][2])  # 0.31: below the result's threshold
    above = (PEAKS[0][0], PEAKS[0][1], PEAKS[0][2] + 3)
    assert contour_at(dock, beside) == contour_at(dock, above) == 0
    dock.views.threshold.number.setValue(0.2)
    assert contour_at(dock, beside) > 0
    assert contour_at(dock, above) == 0
    assert case.threshold == 0.5
    wait_for(lambda: case.threshold == pytest.approx(0.2))
    assert contour_at(dock, above) > 0


# -- unaided first


def test_unaided_first_hides_the_overlay_until_the_opinion_is_committed(dock: Any, tmp_path: Path) -> None:
    write_case(tmp_path)
    dock.review_session(open_session(tmp_path, unaided_first=True))
    case, v = dock.review.case, dock.views
    assert case.concealed
    assert not dock.layers.map.visible
    assert not dock.layers.contours.visible
    assert v.findings.table.rowCount() == 0
    assert "0." not in v.cases.table.item(0, 1).text()
    assert dock.layers.map.metadata["headclip_med"]["pred_score"] is None
    assert not np.asarray(dock.layers.map.data).any()  # nor can a thumbnail or the value below the cursor tell
    dock.review.threshold.preview(0.1)
    assert not dock.layers.contours.data.any()
    dock.layers.peek(True)
    dock.layers.peek(False)
    assert not dock.layers.map.visible
    v.opinion.ratings["abnormal"].click()
    v.opinion.confidence.setValue(80)
    v.opinion.commit_button.click()
    assert not case.concealed
    assert dock.layers.map.visible
    assert np.asarray(dock.layers.map.data).max() > 0.9
    assert dock.layers.contours.visible
    assert v.findings.table.rowCount() == 2
    assert (case.review.first_opinion.rating, case.review.first_opinion.confidence) == ("abnormal", 80)
    assert "abnormal, 80 % sure" in v.opinion.words.text()
    dock.layers.peek(True)
    assert not dock.layers.map.visible


# -- what goes wrong is told


def test_wrong_inputs_are_told_in_the_status_line(dock: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    dock.review.open_folder(tmp_path / "empty", "reader", False)
    assert "must hold a result" in status(dock)
    source, out = write_case(tmp_path)
    dock.review.open_folder(tmp_path / "results", "no/such reader", False)
    assert "reader's id" in status(dock)
    (out / "anomaly_map.nii.gz").write_bytes(b"altered")
    dock.review.open_folder(tmp_path / "results", "reader", False)
    assert "None of these results can be reviewed" in status(dock)
    assert "has changed" in dock.views.cases.table.item(0, 0).toolTip()
    source.unlink()


def test_a_case_whose_source_has_changed_is_shown_without_it(dock: Any, tmp_path: Path) -> None:
    source, _ = write_case(tmp_path)
    nib.Nifti1Image(np.ones(SHAPE, dtype=np.float32) + np.arange(SHAPE[2]), np.eye(4)).to_filename(source)
    dock.review_session(open_session(tmp_path))
    assert "its content is another" in status(dock)
    assert dock.layers.sources == []
    assert dock.layers.map.visible
    dock.views.findings.decide("accepted")
    assert dock.review.case.findings[0].status == "accepted"


def test_a_review_that_is_open_elsewhere_is_for_looking_only(dock: Any, tmp_path: Path) -> None:
    write_case(tmp_path)
    with open_session(tmp_path) as elsewhere:
        elsewhere.open_case("case")
        dock.review_session(open_session(tmp_path))
        assert "open in one window only" in status(dock)
        dock.views.findings.decide("accepted")
        assert "must be kept somewhere" in status(dock)
        assert dock.review.case.findings[0].status is None
        assert not dock.views.draw.draw_button.isEnabled()


def test_a_run_that_cannot_be_done_or_is_cancelled_is_told(
    dock: Any, viewer: Any, tiny_pack: Path, tmp_path: Path
) -> None:
    from napari_headclip_med.files.reader import read_volume_files

    dock.run_box.run_button.setEnabled(True)
    dock.run.start()
    assert "A volume must be open" in status(dock)
    for data, kwargs, _ in read_volume_files(str(write_volume(tmp_path / "scan.nii.gz", shape=(40, 44, 12)))):
        viewer.add_image(data, **kwargs)
    dock.settings_box.folder_edit.setText(str(tmp_path / "out"))
    dock.run_box.model.setCurrentText("no-such-model")
    dock.run.start()
    wait_for(lambda: not dock.run.is_running)
    assert "The model must be" in status(dock)
    dock.run_box.model.setCurrentText(str(tiny_pack))
    dock.run.start()
    dock.run.cancel()
    wait_for(lambda: not dock.run.is_running)
    assert status(dock) == "The run was cancelled; nothing was written."
    assert not (tmp_path / "out").exists()


def test_closing_the_dock_stops_the_engine(make_dock: MakeDock, viewer: Any, tmp_path: Path) -> None:
    from napari_headclip_med.control.worker import LocalRunner
    from napari_headclip_med.files.reader import read_volume_files

    engine, dock = Endless(), make_dock()
    dock.run.runner = LocalRunner(lambda name: engine)
    for data, kwargs, _ in read_volume_files(str(write_volume(tmp_path / "scan.nii.gz"))):
        viewer.add_image(data, **kwargs)
    dock.settings_box.folder_edit.setText(str(tmp_path / "out"))
    dock.run.start()
    wait_for(lambda: dock.run_box.bar.value() > 2)
    dock.run.cancel()
    wait_for(lambda: not dock.run.is_running)
    assert engine.is_stopped
    engine.is_stopped = False
    dock.run.start()
    wait_for(lambda: dock.run_box.bar.value() > 2)
    dock.close_all()
    assert engine.is_stopped


def test_drawing_in_a_case_that_somebody_deleted_the_layer_of_does_not_end_the_dock(dock: Any, tmp_path: Path) -> None:
    write_case(tmp_path)
    dock.review_session(open_session(tmp_path))
    for layer in (dock.layers.contours, dock.layers.map, dock.layers.drawn):
        dock.viewer.layers.remove(layer)
    dock.review.threshold.preview(0.3)
    dock.layers.set_opacity(0.2)
    dock.views.findings.decide("accepted")
    dock.views.draw.draw_button.click()
    dock.review.drawing.drop()
    assert dock.review.case.findings[0].status == "accepted"
