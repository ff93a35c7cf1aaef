"""Work in threads whose outcome comes back in the window's own thread, through napari's workers."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterator
from typing import Any

_PATIENCE_MS = 30_000  # a large model needs some time for a slice


class Task:
    """Something that goes on in a thread and can be asked to stop."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    @property
    def is_stopped(self) -> bool:
        """Tell whether it was asked to stop."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ask it to stop after the event that it is working on."""
        self._stop.set()


class Background:
    """Starts workers and remembers them, so that none outlives the dock."""

    def __init__(self) -> None:
        self._workers: set[Any] = set()
        self._tasks: list[Task] = []
        self._is_closed = False
        atexit.register(self._end)  # a thread that outlives Python aborts the process

    @property
    def is_busy(self) -> bool:
        """Tell whether anything is still running."""
        return bool(self._workers)

    def run(
        self,
        work: Callable[..., Any],
        given: tuple[Any, ...],
        done: Callable[[Any], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Call ``work(*given)`` in a thread, then ``done`` with what it returned, or ``failed``.

        Args:
            work: runs in a thread.
            given: what the work is called with.
            done: called with what was returned.
            failed: called with an error.
        """
        from napari.qt.threading import create_worker

        worker: Any = create_worker(_caught, work, given, _start_thread=False)
        worker.returned.connect(lambda outcome: self._tell(outcome[0], done, failed))
        self._start(worker)

    def follow(
        self,
        events: Callable[[], Iterator[Any]],
        arrived: Callable[[Any], None],
        failed: Callable[[BaseException], None],
        ended: Callable[[], None],
    ) -> Task:
        """Go through an iterator in a thread. ``arrived`` gets everything it yields, ``ended`` comes last.

        Args:
            events: makes the iterator.
            arrived: told what the iterator yields.
            failed: called with an error.
            ended: called when all is over.

        Returns:
            The task. To stop it closes the iterator.
        """
        from napari.qt.threading import create_worker

        task = Task()
        self._tasks.append(task)
        worker: Any = create_worker(_caught_events, events, task, _start_thread=False)
        worker.yielded.connect(lambda event: self._tell(event, arrived, failed))
        worker.finished.connect(lambda: self._tell(None, lambda _: ended(), failed))
        self._start(worker)
        return task

    def close(self) -> None:
        """Ask everything to stop and wait for it. Nothing is told to anybody any more."""
        self._is_closed = True
        self._stop(_PATIENCE_MS)

    def _tell(self, outcome: Any, done: Callable[[Any], None], failed: Callable[[BaseException], None]) -> None:
        """Pass on what came out of a thread. Qt still delivers what was on its way when a dock was closed."""
        if not self._is_closed:
            (failed if isinstance(outcome, BaseException) else done)(outcome)

    def _end(self) -> None:
        """Python ends: wait as long as it takes."""
        self._stop(-1)

    def _stop(self, patience_ms: int) -> None:
        from qtpy.QtCore import QThreadPool

        for task in self._tasks:
            task.stop()
        if self._workers and QThreadPool.globalInstance().waitForDone(patience_ms):
            self._workers.clear()
        if not self._workers:
            atexit.unregister(self._end)

    def _start(self, worker: Any) -> None:
        self._workers.add(worker)
        worker.finished.connect(lambda: self._workers.discard(worker))
        worker.start()


def _caught(work: Callable[..., Any], given: tuple[Any, ...]) -> tuple[Any]:
    """What was returned, or the error itself, boxed: a worker would print an error and go on."""
    try:
        return (work(*given),)
    except Exception as error:
        return (error,)


def _caught_events(events: Callable[[], Iterator[Any]], task: Task) -> Iterator[Any]:
    """napari's own way to quit leaves a generator where it stands, and whatever it runs going on. Ours closes it."""
    iterator = events()
    try:
        for event in iterator:
            if task.is_stopped:
                return
            yield event
    except Exception as error:
        yield error
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
