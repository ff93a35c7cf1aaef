"""Running a model on what is open: maps as they come, then a result folder, then its review."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headclip_med.base.errors import InputError
from headclip_med.base.files import check_writable
from headclip_med.base.geometry import plane_axis
from headclip_med.base.types import VolumeMeta
from headclip_med.base.volume import LoadedVolume
from headclip_med.engine.ask import Ask
from headclip_med.engine.result import AnomalyResult
from headclip_med.reading.inputs import case_name
from headclip_med.review.sources import SourceMatch
from headclip_med.writing import write_result
from headclip_med.writing.folder import case_folder
from headclip_med.writing.panels import position_text

from ..files.writer import grid_of
from ..layers.case import CaseLayers
from ..layers.picture import picture_of_run
from ..views.lines import SliceLine
from ..views.notes import Footer
from ..views.run import RunBox
from ..views.slices import SliceList
from .background import Background, Task
from .review import ReviewControl
from .worker import Progress, Runner, RunOptions, SlicesDone, in_words

_FORMATS = ("nifti", "png")


@dataclass(frozen=True)
class RunSource:
    """What a model is run on.

    Attributes:
        name: of the case that is made.
        source: for the engine: a path where there is one.
        volume: to look at, and for the engine where there is no path.
    """

    name: str
    source: Any
    volume: LoadedVolume


@dataclass(frozen=True)
class Written:
    """The folder of a finished run.

    Attributes:
        folder: with the result.
    """

    folder: Path


class RunControl:
    """At most one run at a time.

    Args:
        viewer: napari's.
        box: where a run is started, followed and cancelled.
        slices: lists the slices that have a score.
        footer: says what became of the run.
        layers: on which source and map lie.
        background: runs the work.
        runner: runs models.
        results_folder: where results go.
        finished: told the new result's folder and its source.
        review: makes room for the layers of a run, and comes back after one that left no result.
    """

    def __init__(
        self,
        viewer: Any,
        box: RunBox,
        slices: SliceList,
        footer: Footer,
        layers: CaseLayers,
        background: Background,
        runner: Runner,
        results_folder: Callable[[], Path],
        finished: Callable[[Path, SourceMatch], None],
        review: ReviewControl,
    ) -> None:
        self.runner = runner
        self._viewer, self._box, self._slices, self._footer = viewer, box, slices, footer
        self._layers, self._background = layers, background
        self._results_folder, self._finished = results_folder, finished
        self._review = review
        self._task: Task | None = None
        self._scores: dict[int, SliceLine] = {}
        self._source: RunSource | None = None
        self._folder: Path | None = None
        self._wrong = ""
        viewer.layers.events.inserted.connect(self._show_source)
        viewer.layers.events.removed.connect(self._show_source)
        viewer.layers.selection.events.active.connect(self._show_source)
        self._show_source()

    @property
    def is_running(self) -> bool:
        """Tell whether a run is going on."""
        return self._task is not None

    def start(self) -> None:
        """Run the chosen model on the chosen volume. What is in the way is said in the status line."""
        if self.is_running:
            return
        try:
            layer = chosen_layer(self._viewer)
            if layer is None:
                raise InputError("A volume must be open to be scored", "none", "Open one with File ▸ Open")
            source, out = source_of(layer), self._results_folder()
            check_writable(out)
        except Exception as error:
            self._footer.status.say(in_words(error), is_wrong=True)
            return
        ask = Ask(domain=self._box.chosen_domain, plane=self._box.chosen_plane)
        options = RunOptions(self._box.model.currentText().strip(), ask)
        self._source, self._scores, self._wrong = source, {}, ""
        self._box.show_running(True)
        self._box.show_progress("starting", 0, 0)
        runner = self.runner
        self._task = self._background.follow(
            lambda: _events(runner, source, options, out, source.name), self._arrived, self._failed, self._ended
        )

    def cancel(self) -> None:
        """Stop after the slices that are being scored."""
        if self._task is not None:
            self._task.stop()
            self._footer.status.say("Cancelling: the slice that is being scored is finished first.")

    def close(self) -> None:
        """Let go of the viewer."""
        self._viewer.layers.events.inserted.disconnect(self._show_source)
        self._viewer.layers.events.removed.disconnect(self._show_source)
        self._viewer.layers.selection.events.active.disconnect(self._show_source)

    def _arrived(self, event: Any) -> None:
        if isinstance(event, Progress):
            self._box.show_progress(event.words, event.done, event.total)
        elif isinstance(event, SlicesDone):
            self._show_slices(event)
        elif isinstance(event, Written):
            self._footer.status.say(f"Done; the result is in '{event.folder.name}'.")
            self._folder = event.folder

    def _show_slices(self, event: SlicesDone) -> None:
        source = self._source
        if source is None:
            return
        if not self._scores:
            self._review.make_room()
            self._layers.open(picture_of_run(source.volume, source.volume.affine, event.frame.axis))
            self._layers.jump(event.indices[0])
        self._layers.put_maps(event.frame, event.indices, event.maps)
        for index, score in zip(event.indices, event.scores, strict=True):
            self._scores[index] = SliceLine(index, _position(source.volume, event, index), float(score))
        if not self._layers.is_run:  # a case was opened meanwhile: its own slices stand in the list
            return
        self._slices.show_slices(sorted(self._scores.values(), key=lambda row: -(row.score or 0.0)))
        self._slices.mark(self._layers.current_index())

    def _failed(self, error: BaseException) -> None:
        self._wrong = in_words(error)

    def _ended(self) -> None:
        was_cancelled = self._task is not None and self._task.is_stopped
        self._task, folder, self._folder = None, self._folder, None
        self._box.show_running(False)
        left = bool(self._scores) and self._review.case is not None  # for a case that was opened meanwhile
        if folder is not None and self._source is not None and not left:
            paths = (self._source.source,) if isinstance(self._source.source, Path) else ()
            self._finished(folder, SourceMatch(self._source.volume, paths))
        if self._layers.is_run:  # no result has taken its place
            self._review.come_back()
        if was_cancelled and folder is None:
            self._footer.status.say("The run was cancelled; nothing was written.")
        elif self._wrong:
            self._footer.status.say(self._wrong, is_wrong=True)
        self._show_source()

    def _show_source(self, event: object = None) -> None:
        if self.is_running:
            return
        layer = chosen_layer(self._viewer)
        self._box.source.setText("Open a volume, or choose its layer." if layer is None else _name_of(layer))
        self._box.show_running(False, "Open a volume first" if layer is None else None)


def chosen_layer(viewer: Any) -> Any:
    """Choose the layer of the volume to run on.

    Args:
        viewer: napari's.

    Returns:
        The layer that is chosen in the layer list where it is a volume of ours, else the lowest that is, None without
        any.
    """
    images = [layer for layer in viewer.layers if _is_source(layer)]
    active = viewer.layers.selection.active
    return active if active in images else images[0] if images else None


def source_of(layer: Any) -> RunSource:
    """Take the volume of a layer of ours back into the source's own grid.

    Args:
        layer: one that this plugin has made.

    Returns:
        The volume ``(C, I, J, K)`` float32, with the path that its layer was opened from where that is still there.
    """
    kept, grid = layer.metadata["headclip_med"], grid_of({"metadata": layer.metadata})
    assert grid is not None
    colours = [np.asarray(layer.data)[..., c] for c in range(3)] if layer.rgb else [np.asarray(layer.data)]
    array = np.stack([grid.to_source(channel) for channel in colours]).astype(np.float32)
    meta: Any = {key: value for key, value in kept.items() if key in VolumeMeta.__annotations__}
    meta |= {"source_name": str(kept.get("source") or layer.name), "is_rgb": bool(layer.rgb), "reader_warnings": []}
    meta.setdefault("source_format", "array")
    volume = LoadedVolume(array, grid.affine, meta)
    path = _path_of(layer)
    return RunSource(_name_of(layer), volume if path is None else path, volume)


def _path_of(layer: Any) -> Path | None:
    path = None if layer.source is None else layer.source.path
    return Path(path) if path and Path(path).exists() else None


def _name_of(layer: Any) -> str:
    path = _path_of(layer)
    return case_name(path or Path(str(layer.metadata["headclip_med"].get("source") or layer.name)))


def _is_source(layer: Any) -> bool:
    kept = layer.metadata.get("headclip_med") or {}
    return type(layer).__name__ == "Image" and "affine" in kept and "threshold" not in kept


def _events(runner: Runner, source: RunSource, options: RunOptions, out: Path, name: str) -> Iterator[Any]:
    """The runner's events. The result is written in the same thread, and its folder is the last event."""
    events = runner.run(source.source, options)
    try:
        for event in events:
            if isinstance(event, AnomalyResult):
                yield Progress("writing the result")
                free = _free_name(out, name)
                with case_folder(out, free) as folder:
                    write_result(event, folder, _FORMATS)
                yield Written(out / free)
                return
            yield event
    finally:
        close = getattr(events, "close", None)
        if close is not None:
            close()


def _free_name(out: Path, name: str) -> str:
    """Nobody's earlier result or review is replaced."""
    free, number = name, 2
    while (out / free).exists():
        free, number = f"{name}_{number}", number + 1
    return free


def _position(volume: LoadedVolume, event: SlicesDone, index: int) -> str:
    from headclip_med.base.geometry import slice_centres

    if volume.meta.get("is_2d", False):
        return ""
    shape = (volume.array.shape[1], volume.array.shape[2], volume.array.shape[3])
    x, y, z = slice_centres(volume.affine, shape, plane_axis(volume.affine, event.frame.plane))[index]
    return position_text((float(x), float(y), float(z)), event.frame.plane)
