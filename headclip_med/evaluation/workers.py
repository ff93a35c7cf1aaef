"""The same work on many cases, here or in several processes; a process that dies costs one case, not the run."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from headclip_med.base.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")

DIED = "the process that worked on it died (out of memory?): use fewer workers"

# What a worker process made at its start: one per process, as a pool offers no other place for it.
_state: Any = None


def run_all(
    tasks: Sequence[Task],
    work: Callable[[Any, Task], Result],
    setup: Callable[[], Any],
    workers: int,
    died: Callable[[str], Result],
) -> Iterator[tuple[Task, Result]]:
    """Yield ``(task, work(setup(), task))`` as they are done, in order with one worker.

    Args:
        tasks: What there is to do.
        work: Does one task, given what ``setup`` made. With several workers it must be importable (a function of a
            module, or ``partial`` of one).
        setup: Called once per process, and importable as ``work`` is.
        workers: Number of processes, with 1 the work is done in this one.
        died: The result of a task whose process died, given what to say about it.

    Yields:
        A task and its result, each task once.
    """
    if workers <= 1:
        state = setup() if tasks else None
        for task in tasks:
            yield task, work(state, task)
        return
    left = list(range(len(tasks)))
    processes = min(workers, len(tasks))
    while left and processes:
        done: set[int] = set()
        try:
            for place, result in _pooled([(i, tasks[i]) for i in left], work, setup, processes):
                done.add(place)
                yield tasks[place], result
        except BrokenProcessPool:
            left = [i for i in left if i not in done]
            if processes == 1:  # alone, so it is this very case
                yield tasks[left[0]], died(DIED)
                left = left[1:]
            processes = 1
            continue
        return


def check_workers(workers: int) -> None:
    """Refuse a number of workers that makes no sense.

    Args:
        workers: Number of processes.

    Raises:
        InputError: it is below 1.
    """
    if workers < 1:
        raise InputError("The number of workers must be at least 1", workers)


def _pooled(
    tasks: Sequence[tuple[int, Any]], work: Callable[[Any, Any], Any], setup: Callable[[], Any], processes: int
) -> Iterator[tuple[int, Any]]:
    threads = max(1, (os.cpu_count() or 1) // processes)
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_start, initargs=(setup, threads)
    )
    waiting = list(reversed(tasks))
    running: dict[Future[Any], int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < 2 * processes:
                place, task = waiting.pop()
                running[pool.submit(_work, work, task)] = place
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in sorted(finished, key=lambda done: done.exception() is not None):  # what is done stays done
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(setup: Callable[[], Any], threads: int) -> None:
    global _state
    import torch

    torch.set_num_threads(threads)
    _state = setup()


def _work(work: Callable[[Any, Any], Any], task: Any) -> Any:
    return work(_state, task)
