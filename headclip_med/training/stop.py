"""Ctrl-C and SIGTERM during a training: the first ends it after the step in work, a second one at once."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from headclip_med.training.checkpoint import NAME, checkpoint_step
from headclip_med.training.feature_store import kept_folder
from headclip_med.training.loop import TrainWatcher
from headclip_med.training.objective import Quality

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_WAITING = "stopping after this step; once more stops at once"


class Stop(TrainWatcher):
    """Passes everything on to another watcher, knows where the run is, and whether it was asked to stop.

    Between steps a signal interrupts the run as Ctrl-C does. While steps are done, which is from the first time that
    :meth:`cancel` is asked until the next stage, the first signal only makes it answer True.

    Args:
        inner: What is told of the run.
        told: Is given a line when the run will stop after the step in work.
    """

    def __init__(self, inner: TrainWatcher, told: Callable[[str], None] = lambda _: None) -> None:
        self._inner, self._told = inner, told
        self._words, self._done = "starting", ""
        self._patient = False
        self._before: dict[int, Any] = {}
        self.signal: int | None = None

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._heard) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def where(self) -> str:
        """Where the run is: ``while reading the data``, ``after step 5 of 8``."""
        return self._done or f"while {self._words}"

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that the signal ended."""
        return 128 + (self.signal or signal.SIGINT)

    def cancel(self) -> bool:
        """Tell whether the run is to stop before its next step.

        Returns:
            True once a signal has come.
        """
        self._patient = True
        return self.signal is not None

    def stage(self, words: str) -> None:
        self._words, self._done, self._patient = words, "", False
        self._inner.stage(words)

    def step(self, step: int, steps: int, loss: float) -> None:
        self._done = f"after step {step} of {steps}"
        self._inner.step(step, steps, loss)

    def validated(self, step: int, quality: Quality, best: bool) -> None:
        self._inner.validated(step, quality, best)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        again, self.signal = self.signal is not None, number
        if again or not self._patient:
            raise KeyboardInterrupt
        self._told(_WAITING)


def stopped_words(where: str, out: Path, subcommand: str | None = None) -> str:
    """Tell whether a run that was stopped left a checkpoint, and which command goes on.

    Args:
        where: ``Stop.where``.
        out: Folder of the run.
        subcommand: That the user typed after ``headclip-med``, None where there was none.

    Returns:
        One line.
    """
    step, kept = checkpoint_step(out), kept_folder(out).is_dir()
    if step is None:
        held = "there is no checkpoint yet, " + ("what was computed is kept" if kept else "nothing is kept")
        return f"training stopped {where}: {held}; begin again with: {_command(subcommand, resume=False)}"
    held = f"step {step}" if step else "its beginning, and what was computed lies beside it"
    return f"training stopped {where}: {NAME} in {out} holds {held}; go on with: {_command(subcommand, resume=True)}"


def _command(subcommand: str | None, *, resume: bool) -> str:
    words = sys.argv[1:]
    if subcommand is None or words[:1] != [subcommand]:
        return "the same command" + (" and resume" if resume else "")
    typed = [word for word in words if word != "--resume"]
    return f"headclip-med {shlex.join([*typed, *['--resume'] * resume])}"
