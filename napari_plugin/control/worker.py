"""Running a model in the background: whatever engine does it, maps come slice by slice and it can be cancelled.

The seam for other engines is :class:`Runner`: an iterator of what happens. :class:`LocalRunner` loads torch or
onnxruntime only when it runs. A runner on another machine would yield the same events.
"""

from __future__ import annotations

import os
import queue
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.errors import CancelledError, HeadclipError, internal_error
from headclip_med.base.geometry import SliceFrame
from headclip_med.engine.ask import Ask
from headclip_med.engine.result import AnomalyResult


@dataclass(frozen=True)
class RunOptions:
    """What the user chose: a model by name or file, and what is asked of the case."""

    model: str
    ask: Ask = field(default_factory=Ask)


@dataclass(frozen=True, eq=False)
class SlicesDone:
    """Maps ``(n, H, W)`` in display orientation and scores ``(n,)`` of the slices at ``indices`` of a plane."""

    frame: SliceFrame
    indices: tuple[int, ...]
    maps: NDArray[np.float32]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class Progress:
    """How far a run is, in words and slices. A ``total`` of 0 is not known yet."""

    words: str
    done: int = 0
    total: int = 0


Event = Progress | SlicesDone | AnomalyResult


class Runner(Protocol):
    """Something that can run a model on a source."""

    def run(self, source: Any, options: RunOptions) -> Iterator[Event]:
        """Run a model on a source. To close the iterator cancels the run.

        Args:
            source: a path, or a volume.
            options: the model, and what is asked of the case.

        Returns:
            The events in their order, the result last.

        Raises:
            HeadclipError: whatever cannot be done, in words.
        """
        ...


class LocalRunner:
    """Runs a model in this process. Engines are kept, so that a second case does not load one again.

    Args:
        load: makes an engine from a model's name or file, by default :func:`load_any_engine`.
    """

    def __init__(self, load: Callable[[str], Any] | None = None) -> None:
        self._load = load or load_any_engine
        self._engines: dict[str, Any] = {}

    def run(self, source: Any, options: RunOptions) -> Generator[Event, None, None]:
        """Run a model in a thread of its own, which is asked to stop between batches when the iterator is closed.

        Args:
            source: a path, or a volume.
            options: the model, and what is asked of the case.

        Yields:
            The events in their order, the result last.

        Raises:
            HeadclipError: whatever cannot be done, in words. Other errors of the engine come out as they are.
        """
        yield Progress(f"loading {Path(options.model).name}")
        events: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()
        stop = threading.Event()
        thread = threading.Thread(target=self._work, args=(source, options, events, stop), daemon=True)
        thread.start()
        try:
            while True:
                event = events.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if isinstance(event, AnomalyResult):
                    return
        finally:
            stop.set()
            thread.join()

    def _work(
        self,
        source: Any,
        options: RunOptions,
        events: queue.SimpleQueue[Event | BaseException],
        stop: threading.Event,
    ) -> None:
        def arrived(
            frame: SliceFrame, indices: Sequence[int], maps: NDArray[np.float32], scores: NDArray[np.float32]
        ) -> None:
            events.put(SlicesDone(frame, tuple(indices), maps, scores))

        def progress(done: int, total: int) -> None:
            events.put(Progress(f"slice {done} of {total}", done, total))

        try:
            if options.model not in self._engines:
                self._engines[options.model] = self._load(options.model)
            events.put(Progress("preparing the volume"))
            result = self._engines[options.model].predict(
                source, options.ask, progress=progress, cancel=stop.is_set, arrived=arrived
            )
            events.put(result)
        except BaseException as error:  # goes on in the thread that listens
            events.put(error)


def load_any_engine(model: str) -> Any:
    """Load the engine of a model, with onnxruntime for an ``.onnx`` file and with torch for all else.

    Args:
        model: its name or file.

    Returns:
        The engine.
    """
    from headclip_med import load_engine, load_onnx_engine

    return load_onnx_engine(model) if model.endswith(".onnx") else load_engine(model)


def in_words(error: BaseException) -> str:
    """Put an error into words. With ``HEADCLIP_DEBUG`` set, one that nobody foresaw is printed as well.

    Args:
        error: of any kind.

    Returns:
        A sentence for the status line.
    """
    if os.environ.get("HEADCLIP_DEBUG") and not isinstance(error, HeadclipError):
        traceback.print_exception(error)
    if isinstance(error, CancelledError):
        return "The run was cancelled; nothing was written."
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"Running a model needs the package {package}, which is not installed. Reviewing results does not."
    return str(error) if isinstance(error, HeadclipError) else f"This did not work: {internal_error(error)}."
