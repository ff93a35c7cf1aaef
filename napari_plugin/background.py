"""Work in threads whose outcome comes back in the window's own thread, through napari's workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


class Background:
    """Starts workers and remembers them, so that none outlives the dock."""

    def __init__(self) -> None:
        self._workers: set[Any] = set()

    @property
    def is_busy(self) -> bool:
        """Whether anything is still running."""
        return bool(self._workers)

    def run(
        self,
        work: Callable[..., Any],
        given: tuple[Any, ...],
        done: Callable[[Any], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Call ``work(*given)`` in a thread, then ``done`` with what it returned, or ``failed``."""
        from napari.qt.threading import create_worker

        worker: Any = create_worker(_caught, work, given, _start_thread=False)
        worker.returned.connect(lambda outcome: (failed if isinstance(outcome, BaseException) else done)(outcome))
        self._start(worker)

    def follow(
        self,
        events: Callable[[], Iterator[Any]],
        arrived: Callable[[Any], None],
        failed: Callable[[BaseException], None],
        ended: Callable[[], None],
    ) -> Any:
        """Go through an iterator in a thread; ``arrived`` gets everything it yields, ``ended`` comes last.

        Returns:
            The worker; its ``quit()`` closes the iterator.
        """
        from napari.qt.threading import create_worker

        worker: Any = create_worker(_caught_events, events, _start_thread=False)
        worker.yielded.connect(lambda event: (failed if isinstance(event, BaseException) else arrived)(event))
        worker.finished.connect(ended)
        self._start(worker)
        return worker

    def close(self) -> None:
        """Ask everything to stop and wait for it."""
        from qtpy.QtCore import QThreadPool

        for worker in tuple(self._workers):
            _disconnect(worker)
            if hasattr(worker, "quit"):
                worker.quit()
        QThreadPool.globalInstance().waitForDone(10_000)
        self._workers.clear()

    def _start(self, worker: Any) -> None:
        self._workers.add(worker)
        worker.finished.connect(lambda: self._workers.discard(worker))
        worker.start()


def _caught(work: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    """What was returned, or the error itself: a worker would print it and go on."""
    try:
        return work(*given)
    except Exception as error:
        return error


def _caught_events(events: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    iterator = events()
    try:
        yield from iterator
    except Exception as error:
        yield error
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def _disconnect(worker: Any) -> None:
    for name in ("returned", "yielded", "finished"):
        signal = getattr(worker, name, None)
        if signal is not None:
            try:
                signal.disconnect()
            except (RuntimeError, TypeError):
                continue
