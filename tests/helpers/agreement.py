"""What must hold at any time in the review dock: picture, status and journal are of one case, or nothing is open."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mixed_cases import KINDS, Kind, map_on_disk

from headclip_med.base.geometry import voxel_to_world
from headclip_med.reading import load_volume
from headclip_med.review.store import ReviewFiles, read_files


class Agreement:
    """Compares what a dock shows of mixed cases with their files as nibabel and ``json`` read them."""

    def __init__(self, dock: Any, folder: Path, results: dict[str, Path], kinds: tuple[Kind, ...] = KINDS) -> None:
        self.dock, self.viewer, self.folder, self.results = dock, dock.viewer, folder, results
        self.kinds = {kind.name: kind for kind in kinds}
        self.maps = {name: map_on_disk(result) for name, result in results.items()}
        self.sources = {
            kind.name: load_volume(next((folder / "sources").glob(f"{kind.name}.*"))) for kind in kinds if kind.source
        }
        self.journals: dict[Path, str] = {}
        self.was_open: Path | None = None

    @property
    def v(self) -> Any:
        """The dock's parts."""
        return self.dock.views

    def check(self) -> None:
        """Everything at once."""
        case = self.dock.review.case
        session = self.dock.review.session
        assert (case is None) == (session is None or session.case is None)
        assert case is None or case is session.case
        if case is None:
            self.nothing_is_open()
        else:
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
        pending = self.dock.review.threshold.dragged is not None
        if not pending:
            self.shows(layers.contours, (seen >= case.threshold) & (not case.concealed), "contours", lambda x: x > 0)
        units = {str(unit) for layer in ours for unit in layer.units}
        assert units == ({"pixel"} if self.kinds[case.key].picture else {"millimeter"})
        self.letters_are_of(case)
        self.slice_is_of(case)

    def sources_are_of(self, case: Any) -> None:
        layers, volume = self.dock.layers, self.sources.get(case.key)
        assert len(layers.sources) == (0 if volume is None else 1)
        for layer in layers.sources:
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
        self.lies_right(layer, seen(data), wanted, what)
        if layer.visible and self.viewer.dims.ndisplay == 2:
            across = self.cut_axis()
            place = self.viewer.dims.point[across - 3]
            index = round((place - layer.translate[across]) / layer.scale[across])
            shown = np.asarray(layer._slice.image.raw)
            if not 0 <= index < data.shape[across]:
                assert shown.size <= 4, f"{what}: something beyond the volume"
                return
            cut = np.take(data, index, across)
            assert np.array_equal(shown, cut) or np.array_equal(shown, cut.T), f"{what}: another slice on the canvas"

    def lies_right(self, layer: Any, data: np.ndarray, wanted: np.ndarray, what: str) -> None:
        """Voxels lie at their millimetres from the right, the front and the top, or at their row and column."""
        kind = self.kinds[self.dock.review.case.key]
        affine = self.dock.review.case.data.affine
        last = np.array(wanted.shape) - 1
        for voxel in (np.zeros(3, dtype=int), last, last // 2, last * [1, 0, 0], last * [0, 1, 0]):
            world = [0, voxel[1], voxel[0]] if kind.picture else -voxel_to_world(affine, voxel)[::-1]
            if not kind.oblique:
                index = tuple(np.rint(layer.world_to_data(world)).astype(int))
                assert data[index] == wanted[tuple(voxel)], f"{what}: a voxel in another place"

    def cut_axis(self) -> int:
        """The axis of a layer of three axes across which napari cuts, when it shows two of them."""
        shown = [axis - (self.viewer.dims.ndim - 3) for axis in self.viewer.dims.order]
        return next(axis for axis in shown if axis >= 0)

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
            primary = ("axial", "coronal", "sagittal").index(case.record.planes[0])
            is_primary = self.viewer.dims.ndisplay == 2 and self.cut_axis() == primary
            assert index == 0 or not is_primary or self.dock.layers.is_beyond()
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
        assert self.dock.settings_box.reader == case.review.reader
        pending = self.dock.review.threshold.dragged
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
            again = read_files(ReviewFiles(open_journal.parent, case.review.reader)).history
            assert again is not None
            assert again.review == case.review

    def words_in(self, value: Any) -> list[str]:
        """Labels and notes of events."""
        if isinstance(value, dict):
            own = [text for key, text in value.items() if key in ("label", "note") and isinstance(text, str) and text]
            return own + [text for inner in value.values() for text in self.words_in(inner)]
        return [text for inner in value for text in self.words_in(inner)] if isinstance(value, list) else []

    def kept(self, layer: Any) -> Any:
        """What a layer of ours knows."""
        return layer.metadata.get("headclip_med") or {}
