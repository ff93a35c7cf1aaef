"""Cases in other processes: all results come back, and a process that dies costs one case."""

from __future__ import annotations

import os
from functools import partial

import pytest

from headclip_med.base.errors import InputError, OutputError
from headclip_med.evaluation.workers import DIED, check_workers, run_all


def start(offset: int) -> int:
    return offset


def add(offset: int, task: int) -> str:
    if task == 13:
        os._exit(1)  # as the kernel does when memory runs out
    return str(offset + task)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_done_once(workers: int) -> None:
    found = dict(run_all(range(5), add, partial(start, 10), workers, str))
    assert found == {0: "10", 1: "11", 2: "12", 3: "13", 4: "14"}


def test_a_process_that_dies_costs_its_own_case_only() -> None:
    found = dict(run_all([1, 13, 2, 3], add, partial(start, 0), 2, str))
    assert found == {1: "1", 2: "2", 3: "3", 13: DIED}


def test_no_task_needs_no_setup() -> None:
    def never() -> None:
        raise AssertionError("set up for nothing")

    assert list(run_all([], add, never, 1, str)) == []


def test_no_workers_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        check_workers(0)


def refuse(offset: int, task: int) -> str:
    raise OutputError("The folder must be writable", task, "Choose another one")


def test_an_error_from_another_process_reads_as_it_was_raised() -> None:
    """It once ended in two full stops."""
    with pytest.raises(OutputError) as caught:
        list(run_all([7], refuse, partial(start, 0), 2, str))
    assert str(caught.value) == "The folder must be writable; given: 7. Choose another one."
    assert (caught.value.must, caught.value.do) == ("The folder must be writable", "Choose another one")
