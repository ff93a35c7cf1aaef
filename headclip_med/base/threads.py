"""Work on a list of things in threads, in order and a little ahead of (or behind) who takes the results."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

# Python has one set of warning filters for all threads: whoever changes them holds this meanwhile.
WARNINGS = threading.RLock()

Item = TypeVar("Item")
Result = TypeVar("Result")


class Ahead(Iterator[Result], Generic[Item, Result]):
    """Applies ``function`` to every item in threads, in the order of the items. As a context it ends with its threads.

    An item is taken from ``items`` in the caller's thread, ``function`` runs in another. Items that are made on the way
    (scored cases, to be written) are so made while ``function`` works on the ones before.

    Args:
        function: what to do with an item.
        items: read only as far as they are needed.
        threads: how many work.
        most: how many more are begun at most, beside the next one.
        weight: of a result, such as its bytes.
        budget: no more is begun ahead than weighs so much, each counted as the heaviest so far.
    """

    def __init__(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        threads: int = 1,
        most: int = 0,
        weight: Callable[[Result], int] | None = None,
        budget: int = 0,
    ) -> None:
        self._function, self._items, self._most = function, iter(items), most
        self._weight, self._budget = weight, budget
        self._pool = ThreadPoolExecutor(threads)
        self._begun: deque[Future[Result]] = deque()
        self._exhausted, self._heaviest = False, 0

    @property
    def ready(self) -> bool:
        """Whether the next result is there, or there is none."""
        return self._begun[0].done() if self._begun else self._exhausted

    def __next__(self) -> Result:
        self._begin()
        if not self._begun:
            raise StopIteration
        given = self._begun.popleft()
        self._begin()  # something is worked on while the caller uses this one, however heavy it is
        return given.result()

    def _begin(self) -> None:
        while not self._exhausted and self._may_begin():
            try:
                item = next(self._items)
            except StopIteration:
                self._exhausted = True
                return
            self._begun.append(self._pool.submit(self._function, item))

    def _may_begin(self) -> bool:
        if not self._begun or self._weight is None:
            return len(self._begun) <= self._most
        done = [future for future in self._begun if future.done() and future.exception() is None]
        self._heaviest = max([self._heaviest, *(self._weight(future.result()) for future in done)])
        if self._heaviest == 0:  # nothing is known yet
            return len(self._begun) < 2
        return len(self._begun) <= self._most and (len(self._begun) + 1) * self._heaviest <= self._budget

    def __enter__(self) -> Ahead[Item, Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what is being worked on, and begin nothing more."""
        self._pool.shutdown(wait=True, cancel_futures=True)
