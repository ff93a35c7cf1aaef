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
from agreement import Agreement
from mixed_cases import open_mixed, write_mixed
from napari_case import status, wait_for

pytest.importorskip("napari")

STEPS = int(os.environ.get("HEADCLIP_WALK_STEPS", "150"))
SEED = int(os.environ.get("HEADCLIP_WALK_SEED", "0"))
PLANES = ("axial", "coronal", "sagittal")


def test_picture_status_and_journal_agree_after_every_action_of_a_random_walk(
    dock: Any, viewer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari._vispy.canvas.gc", SimpleNamespace(collect=lambda: 0))  # a second a removed layer
    walk = Walk(dock, viewer, tmp_path, np.random.default_rng(SEED))
    walk.agreement.check()
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
        self.agreement = Agreement(dock, folder, self.results)
        self.reader, self.count, self.unaided = "anna", 0, False
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
            self.agreement.check()
            self.opened |= {case.key for case in (self.dock.review.case,) if case is not None}
        except AssertionError as error:
            raise AssertionError(f"after step {number}, {name}: {error}\n{before!r} → {status(self.dock)!r}") from error

    def spin(self) -> None:
        from qtpy.QtWidgets import QApplication

        for _ in range(3):
            QApplication.processEvents()

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
        across = self.agreement.cut_axis()
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
        wait_for(lambda: self.dock.review.threshold.dragged is None and not self.dock.background.is_busy)

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
            if "must wait for the first opinion" in status(self.dock):
                return
            found = [json.loads(path.read_text("utf-8")) for path in (self.folder / "exported").glob("*/review.json")]
            own = [review for review in found if review["result"]["map_sha256"] == self.agreement.maps[case.key][1]]
            assert [review["reader"] for review in own].count(case.review.reader) == 1

    # -- the other one

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
        others = [layer for layer in self.viewer.layers if not self.agreement.kept(layer)]
        if others and self.rng.random() < 0.6:
            self.viewer.layers.remove(self.pick(others))
        else:
            ndim = int(self.pick((3, 4, 5)))
            self.viewer.add_image(self.rng.random((3,) * (ndim - 3) + (6, 20, 20)), name="not ours")
            self.dock.review.mend()  # as every action of the reader does first

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
