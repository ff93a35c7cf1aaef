"""A random walk through a review of ten mixed cases: picture, status and journal agree after every single action.

``HEADCLIP_WALK_STEPS`` and ``HEADCLIP_WALK_SEED`` choose how long and which: the suite takes 150 steps.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mixed_cases import KINDS, map_on_disk, open_mixed, write_mixed
from napari_case import status, wait_for

from headclip_med.geometry import voxel_to_world
from headclip_med.hashing import sha256_file
from headclip_med.reading import load_volume
from headclip_med.review.store import ReviewFiles, read_files

pytest.importorskip("napari")

STEPS = int(os.environ.get("HEADCLIP_WALK_STEPS", "150"))
SEED = int(os.environ.get("HEADCLIP_WALK_SEED", "0"))
PLANES = ("axial", "coronal", "sagittal")


def test_picture_status_and_journal_agree_after_every_action_of_a_random_walk(
    dock: Any, viewer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari._vispy.canvas.gc", SimpleNamespace(collect=lambda: 0))  # a second a removed layer
    walk = Walk(dock, viewer, tmp_path, np.random.default_rng(SEED))
    walk.agree()
    for number in range(STEPS):
        walk.act(number)
    assert len(walk.opened) >= 4
    if STEPS >= 1000:
        assert walk.opened == set(walk.results)
        assert set(walk.done) == set(walk.actions), "every kind of action was taken"


class Walk:
    """A reader of ten cases who does anything at any time, and somebody else who meddles with layers and files."""

    def __init__(self, dock: Any, viewer: Any, folder: Path, rng: np.random.Generator) -> None:
        self.dock, self.viewer, self.folder, self.rng = dock, viewer, folder, rng
        self.results = write_mixed(folder)
        self.kinds = {kind.name: kind for kind in KINDS}
        self.maps = {name: map_on_disk(result) for name, result in self.results.items()}
        self.sources = {
            kind.name: load_volume(next((folder / "sources").glob(f"{kind.name}.*"))) for kind in KINDS if kind.source
        }
        self.reader, self.count, self.unaided = "anna", 0, False
        self.journals: dict[Path, str] = {}
        self.was_open: Path | None = None
        self.opened: set[str] = set()
        self.done: dict[str, int] = {}
        self.actions: dict[str, tuple[int, Callable[[], None]]] = {
            "open": (10, self.open),
            "step": (5, lambda: self.click(self.pick((self.v.cases.next_button, self.v.cases.previous_button)))),
            "decide": (12, self.decide),
            "describe": (7, self.describe),
            "undo": (6, lambda: self.click(self.v.footer.undo_button)),
            "redo": (4, lambda: self.click(self.v.footer.redo_button)),
            "begin": (5, lambda: self.click(self.v.draw.draw_button)),
            "paint": (10, self.paint),
            "napari undo": (4, lambda: self.layer("drawn", "undo")),
            "napari redo": (2, lambda: self.layer("drawn", "redo")),
            "keep": (3, lambda: self.click(self.v.draw.keep_button)),
            "discard": (2, lambda: self.click(self.v.draw.drop_button)),
            "remove drawn": (2, lambda: self.click(self.v.findings.remove_button)),
            "clear": (1, self.clear),
            "threshold": (6, self.threshold),
            "rest": (4, self.rest),
            "plane": (4, lambda: self.v.display.plane.textActivated.emit(self.pick(PLANES))),
            "roll": (2, self.roll),
            "sides": (2, self.dock.switch_sides),
            "jump": (6, self.jump),
            "suspicious": (3, lambda: self.dock.review.step_suspicious(self.pick((1, -1)))),
            "finding": (4, lambda: self.v.findings.step(self.pick((1, -1)))),
            "opinion": (4, self.opinion),
            "done": (3, lambda: self.click(self.v.cases.done_box)),
            "peek": (1, self.peek),
            "delete": (4, self.delete),
            "meddle": (4, self.meddle),
            "other layer": (3, self.other_layer),
            "files": (4, self.meddle_with_files),
            "export": (1, self.export),
            "session": (3, self.session),
        }
        self.names = list(self.actions)
        weights = np.array([weight for weight, _ in self.actions.values()], dtype=float)
        self.weights = weights / weights.sum()
        self.open_session()

    # -- one step

    def act(self, number: int) -> None:
        name = str(self.rng.choice(self.names, p=self.weights))
        before = status(self.dock)
        self.actions[name][1]()
        self.spin()
        self.done[name] = self.done.get(name, 0) + 1
        try:
            self.agree()
        except AssertionError as error:
            raise AssertionError(f"after step {number}, {name}: {error}\n{before!r} → {status(self.dock)!r}") from error

    def spin(self) -> None:
        from qtpy.QtWidgets import QApplication

        for _ in range(3):
            QApplication.processEvents()

    # -- what must hold

    def agree(self) -> None:
        case = self.dock.review.case
        session = self.dock.review.session
        assert (case is None) == (session is None or session.case is None)
        assert case is None or case is session.case
        if case is None:
            self.nothing_is_open()
        else:
            self.opened.add(case.key)
            self.picture_is_of(case)
            self.words_are_of(case)
        self.journals_are_right(case)

    def nothing_is_open(self) -> None:
        assert not [layer.name for layer in self.viewer.layers if "threshold" in self.kept(layer)]
        assert self.v.findings.table.rowCount() == self.v.slices.table.rowCount() == 0
        assert self.v.cases.table.chosen() is None
        for button in (self.v.draw.draw_button, self.v.opinion, self.v.threshold, self.v.footer.undo_button):
            assert not button.isEnabled()

    def picture_is_of(self, case: Any) -> None:
        layers, (amap, sha256) = self.dock.layers, self.maps[case.key]
        ours = (*layers.sources, layers.map, layers.contours, layers.drawn)
        assert all(layer in self.viewer.layers for layer in ours)
        assert layers.shown() == case.data.link
        assert case.data.link.map_sha256 == sha256
        seen = amap if not case.concealed else np.zeros_like(amap)
        self.shows(layers.map, seen, "map")
        self.sources_are_of(case)
        self.shows(layers.drawn, self.drawn_from_journal(case), "drawn")
        pending = self.dock.review._preview is not None
        if not pending:
            self.shows(layers.contours, (seen >= case.threshold) & (not case.concealed), "contours", lambda x: x > 0)
        units = {str(unit) for layer in ours for unit in layer.units}
        assert units == ({"pixel"} if self.kinds[case.key].picture else {"millimeter"})
        self.letters_are_of(case)
        self.slice_is_of(case)

    def sources_are_of(self, case: Any) -> None:
        layers, volume = self.dock.layers, self.sources.get(case.key)
        has_source = volume is not None and (self.folder / "sources").exists()
        assert len(layers.sources) == (1 if has_source or layers.sources else 0)
        for layer in layers.sources:
            assert volume is not None
            if self.kinds[case.key].channels == 3:
                shown = np.moveaxis(layers.grid.to_source(np.moveaxis(layer.data, -1, 0)[0])[None], 0, -1)[..., 0]
                np.testing.assert_array_equal(shown, volume.array[0].astype(np.uint8))
            else:
                self.shows(layer, volume.array[0], "source")

    def shows(self, layer: Any, wanted: np.ndarray, what: str, seen: Callable[[Any], Any] = lambda x: x) -> None:
        """The layer holds these values in the source's order, and what is drawn on the canvas is a slice of them."""
        data = np.asarray(layer.data)
        values = seen(self.dock.layers.grid.to_source(data))
        assert values.shape == wanted.shape, what
        assert np.array_equal(values, wanted), f"{what}: another array"
        if layer.visible and self.viewer.dims.ndisplay == 2:
            axis = [axis - (self.viewer.dims.ndim - 3) for axis in self.viewer.dims.order]
            across = next(axis for axis in axis if axis >= 0)
            place = self.viewer.dims.point[across - 3]
            index = round((place - layer.translate[across]) / layer.scale[across])
            shown = np.asarray(layer._slice.image.raw)
            if not 0 <= index < data.shape[across]:
                assert shown.size <= 4, f"{what}: something beyond the volume"
                return
            cut = np.take(data, index, across)
            assert np.array_equal(shown, cut) or np.array_equal(shown, cut.T), f"{what}: another slice on the canvas"

    def letters_are_of(self, case: Any) -> None:
        letters, record = "".join(self.dock.orientation.letters), case.record
        if record.source.is_2d or self.viewer.dims.ndisplay == 3:
            assert letters == ""
        else:
            assert letters
        assert self.v.display.plane.isEnabled() == (not record.source.is_2d)

    def slice_is_of(self, case: Any) -> None:
        """The slice that the dock names lies where the screen cuts, by the record's millimetres."""
        index = self.dock.layers.current_index()
        assert self.v.slices.table.chosen() in (index, None)
        if index is None or case.record.source.is_2d:
            return
        grid, point = self.dock.layers.grid, np.array(self.viewer.dims.point[-3:])
        entry = next(row for row in case.record.slices if row.index == index)
        ras = np.asarray(grid.world_to_ras)[:3, :3] @ point
        across = voxel_to_world(case.data.affine, np.eye(3)[case.data.axis]) - case.data.affine[:3, 3]
        far = abs((ras - entry.position_mm) @ across) / np.linalg.norm(across)
        inside = 0 < index < case.data.shape[case.data.axis] - 1
        assert far <= 0.51 * np.linalg.norm(across) or not inside, "another slice than the dock says"

    def words_are_of(self, case: Any) -> None:
        v, record = self.v, case.record
        assert v.cases.table.chosen() == case.key
        assert v.cases.done_box.isChecked() == case.review.done
        assert f"model-{case.key}" in v.footer.provenance.text()
        assert v.slices.table.rowCount() == len(record.slices)
        names = [v.findings.table.item(row, 1).data(256) for row in range(v.findings.table.rowCount())]
        assert names == [row.id for row in case.findings] + list(case.review.drawn)
        assert v.warnings.isHidden() == (not record.warnings)
        assert all(warning in v.warnings.toolTip() for warning in record.warnings)
        assert v.footer.undo_button.isEnabled() == case.can_undo
        assert self.dock.settings_box.reader == case.review.reader == self.reader
        pending = self.dock.review._preview
        assert abs(v.threshold.value - (case.threshold if pending is None else pending)) < 1e-3
        heading = v.findings.table.horizontalHeaderItem(2).text()
        assert heading == ("pixels" if record.source.is_2d else "ml")

    def drawn_from_journal(self, case: Any) -> np.ndarray:
        labels = np.zeros(case.data.shape, dtype=np.uint16)
        flat = labels.reshape(-1)
        for name, one in case.review.drawn.items():
            for first, length in one.runs:
                flat[first : first + length] = int(name[1:])
        return labels

    def journals_are_right(self, case: Any) -> None:
        """What is on the disk is what is open; nothing else has changed; every event names its own map."""
        open_journal = None if case is None or case.store is None else case.store.files.journal
        for path in sorted((self.folder / "session").glob("*/*.journal")):
            content = path.read_bytes()
            if path not in (open_journal, self.was_open) and path in self.journals:
                assert content.hex() == self.journals[path], f"{path} has changed, which is not open"
            self.journals[path] = content.hex()
            name = path.parent.name.rpartition("-")[0]
            events = [json.loads(line) for line in content.splitlines()[1:]]
            assert {event["map_sha256"] for event in events} <= {self.maps[name][1]}
            for text in self.words_in(events):
                assert text.startswith(f"{name} "), f"{text!r} stands in the journal of {name}"
        self.was_open = open_journal
        if open_journal is not None and open_journal.exists():
            again = read_files(ReviewFiles(open_journal.parent, self.reader)).history
            assert again is not None
            assert again.review == case.review

    def words_in(self, value: Any) -> list[str]:
        """Labels and notes of events."""
        if isinstance(value, dict):
            own = [text for key, text in value.items() if key in ("label", "note") and isinstance(text, str) and text]
            return own + [text for inner in value.values() for text in self.words_in(inner)]
        return [text for inner in value for text in self.words_in(inner)] if isinstance(value, list) else []

    # -- the reader

    @property
    def v(self) -> Any:
        return self.dock.views

    def pick(self, things: Any) -> Any:
        things = list(things)
        return things[int(self.rng.integers(len(things)))] if things else None

    def click(self, button: Any) -> None:
        if button.isEnabled() and not button.isHidden():
            button.click()

    def open(self) -> None:
        self.v.cases.table.selectRow(int(self.rng.integers(max(1, self.v.cases.table.rowCount()))))

    def choose(self) -> Any:
        keys = [
            self.v.findings.table.item(row, 1).data(256) for row in range(self.v.findings.table.rowCount())
        ]  # fmt: skip
        key = self.pick(keys)
        if key is not None:
            self.v.findings.choose(key)
        return key

    def decide(self) -> None:
        self.choose()
        self.v.findings.decide(self.pick(("accepted", "rejected", "uncertain")))

    def describe(self) -> None:
        """Type a label or a note; whether it is finished is left to what happens next."""
        if self.choose() is None or self.dock.review.case is None:
            return
        line = self.pick((self.v.findings.label, self.v.findings.note))
        self.count += 1
        line.setText(f"{self.dock.review.case.key} {self.count}")
        line.setModified(True)
        if self.rng.random() < 0.5:
            line.editingFinished.emit()

    def layer(self, name: str, method: str, *given: Any) -> None:
        layer = getattr(self.dock.layers, name)
        if layer is not None and layer in self.viewer.layers and layer.editable:
            getattr(layer, method)(*given)

    def paint(self) -> None:
        """A stroke, a bucket, a polygon or an eraser, with any number, as napari's own tools do it."""
        layer = self.dock.layers.drawn
        if layer is None or layer not in self.viewer.layers or not layer.editable:
            return
        place = [int(self.rng.integers(n)) for n in np.shape(layer.data)]
        shown = [axis - (self.viewer.dims.ndim - 3) for axis in self.viewer.dims.order]
        across = next(axis for axis in shown if axis >= 0)
        at = (self.viewer.dims.point[across - 3] - layer.translate[across]) / layer.scale[across]
        place[across] = int(np.clip(round(at), 0, layer.data.shape[across] - 1))
        layer.brush_size = int(self.rng.integers(1, 5))
        number = int(self.pick((layer.selected_label, layer.selected_label, 1, 7, 300, 0)))
        how = self.pick(("stroke", "stroke", "stroke", "fill", "polygon", "number"))
        if how == "stroke":
            with layer.block_history():
                layer.paint(tuple(place), number)
        elif how == "fill" and layer.data[tuple(place)]:
            layer.fill(tuple(place), number)
        elif how == "polygon" and self.viewer.dims.ndisplay == 2:
            corners = np.array([place, place, place], dtype=float)
            down, right = (axis for axis in range(3) if axis != across)
            corners[1, down] += 2
            corners[2, right] += 2
            layer.paint_polygon(corners, number)
        else:
            layer.selected_label = number

    def clear(self) -> None:
        layer = self.dock.layers.drawn
        if layer is not None and layer in self.viewer.layers:
            layer.data[...] = 0
            layer.refresh()
            self.dock.review.drawing.follow()  # a hidden layer tells nobody

    def threshold(self) -> None:
        if self.v.threshold.isEnabled():
            self.v.threshold.number.setValue(float(self.pick((0.1, 0.3, 0.5, 0.55, 0.7, 0.9))))

    def rest(self) -> None:
        wait_for(lambda: self.dock.review._preview is None and not self.dock.background.is_busy)

    def roll(self) -> None:
        if self.viewer.dims.ndim >= 3:
            self.pick((self.viewer.dims.roll, self.viewer.dims.transpose))()

    def jump(self) -> None:
        case = self.dock.review.case
        if case is not None:
            self.v.slices.curve.jumped.emit(int(self.rng.integers(case.data.shape[case.data.axis])))

    def opinion(self) -> None:
        if self.v.opinion.isEnabled():
            self.v.opinion.ratings[self.pick(("normal", "abnormal", "uncertain"))].click()
            self.v.opinion.confidence.setValue(int(self.rng.integers(101)))
            if self.rng.random() < 0.7:
                self.click(self.v.opinion.commit_button)

    def peek(self) -> None:
        self.dock.layers.peek(True)
        self.spin()
        self.dock.layers.peek(False)

    def export(self) -> None:
        case = self.dock.review.case
        if case is not None:
            self.dock.tools.export(self.folder / "exported", ["json", "csv", "nifti", "html"])
            wait_for(lambda: not self.dock.background.is_busy)
            written = json.loads((self.folder / "exported" / case.key / "review.json").read_text(encoding="utf-8"))
            assert written["result"]["map_sha256"] == self.maps[case.key][1]

    # -- the other one

    def kept(self, layer: Any) -> Any:
        return layer.metadata.get("headclip_med") or {}

    def ours(self) -> list[Any]:
        layers = self.dock.layers
        own = (*layers.sources, layers.map, layers.contours, layers.drawn)
        return [layer for layer in own if layer is not None and layer in self.viewer.layers]

    def delete(self) -> None:
        for layer in self.pick((self.ours(), self.ours()[:1], self.ours()[-1:], self.ours()[1:3])):
            self.viewer.layers.remove(layer)

    def meddle(self) -> None:
        """Rename, move, hide, turn or refill a layer, or change its type."""
        layer, layers = self.pick(self.ours()), self.dock.layers
        if layer is None:
            return
        how = self.pick(("name", "order", "translate", "data", "type", "affine", "locked"))
        if how == "name":
            layer.name = "something else"
        elif how == "order":
            self.viewer.layers.move(self.viewer.layers.index(layer), int(self.rng.integers(len(self.viewer.layers))))
        elif how == "translate":
            layer.translate = np.asarray(layer.translate) + 3
        elif how == "data" and not getattr(layer, "rgb", False):
            layer.data = np.ones((5, 6, 7), dtype=layer.data.dtype)
        elif how == "type" and layer is layers.drawn:
            layer.data = layer.data.astype(np.int32)
        elif how == "affine":
            layer.affine = np.diag([1.0, 2.0, 1.0, 1.0])
        elif how == "locked" and hasattr(layer, "locked"):
            layer.locked = not layer.locked
        self.dock.review.mend()  # as every action of the reader does first

    def other_layer(self) -> None:
        others = [layer for layer in self.viewer.layers if not self.kept(layer)]
        if others and self.rng.random() < 0.6:
            self.viewer.layers.remove(self.pick(others))
        else:
            ndim = int(self.pick((3, 4, 5)))
            self.viewer.add_image(self.rng.random((3,) * (ndim - 3) + (6, 20, 20)), name="not ours")

    def meddle_with_files(self) -> None:
        """Take a result away or bring it back; change a map or mend it. Never for good."""
        name = self.pick(self.results)
        result, aside = self.results[name], self.folder / "aside" / name
        aside.parent.mkdir(exist_ok=True)
        if aside.exists():
            shutil.rmtree(result, ignore_errors=True)
            aside.rename(result)
        elif self.rng.random() < 0.5:
            result.rename(aside)
        else:
            shutil.copytree(result, aside)
            (result / "anomaly_map.nii.gz").write_bytes(b"altered")

    def session(self) -> None:
        """Close the review, or open one: another reader, unaided first, the same again."""
        if self.rng.random() < 0.3:
            self.dock.review.close_session()
        else:
            self.reader, self.unaided = self.pick(("anna", "ben")), bool(self.rng.integers(2))
            self.open_session()

    def open_session(self) -> None:
        before = self.dock.review.session
        session = open_mixed(self.folder, reader=self.reader, unaided_first=self.unaided)
        self.dock.review_session(session, self.pick(self.results))
        if self.dock.review.session is before and before is not None:
            self.reader = before.reader  # the one named could not be opened


def test_the_maps_of_the_walk_are_what_was_written(tmp_path: Path) -> None:
    for name, result in write_mixed(tmp_path).items():
        assert map_on_disk(result)[1] == sha256_file(result / "anomaly_map.nii.gz"), name
