"""What ``headclip-med train`` shows: one bar with loss, validation and the time left."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.progress import TextColumn

from headclip_med.cli.screen.console import Pulse, draws_bars, progress_bars, say_note, say_result
from headclip_med.encoders.weight_places import is_weights, split_architecture
from headclip_med.training.loop import TrainWatcher
from headclip_med.training.objective import Quality

if TYPE_CHECKING:
    from headclip_med.training.run import Trained

_BLOCKS = " ▁▂▃▄▅▆▇█"


class TrainBar(TrainWatcher):
    """A bar on a terminal, else lines, where validations are lines, so that a log keeps them."""

    def __init__(self) -> None:
        self._pulse = Pulse()
        self._bars = progress_bars(TextColumn("{task.fields[more]}", markup=False), keep=True)
        self._task = self._bars.add_task("", total=None, more="")
        self._curve: list[float] = []

    def __enter__(self) -> TrainBar:
        if draws_bars():
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def told(self, words: str) -> None:
        """Say a line between the others."""
        say_note(words)

    def stage(self, words: str) -> None:
        self._bars.reset(self._task, total=None, description=words, more="")
        self._pulse.say(words)

    def step(self, step: int, steps: int, loss: float) -> None:
        self._bars.update(self._task, completed=step, total=steps, more=f"loss {loss:.4f} {curve(self._curve)}")
        self._pulse.beat(f"step {step} of {steps}: loss {loss:.4f}")

    def validated(self, step: int, quality: Quality, best: bool) -> None:
        self._curve.append(quality.average_precision)
        words = f"step {step}: validation AP {quality.average_precision:.4f}, AUROC {quality.auroc:.4f}"
        say_note(words + (" (best so far)" if best else ""))


def curve(values: list[float]) -> str:
    """Draw the validation curve in one line of blocks, the latest 30 values."""
    shown = [value for value in values if value == value][-30:]
    if len(shown) < 2 or max(shown) == min(shown):
        return ""
    low, high = min(shown), max(shown)
    return "".join(_BLOCKS[round((value - low) / (high - low) * (len(_BLOCKS) - 1))] for value in shown)


def show_trained(trained: Trained) -> None:
    """Show where the pack is and what it is worth on held-back patients."""
    fitted = trained.fitted
    say_result(f"best step {fitted.best_step}: validation AP {fitted.best_score:.4f}")
    say_result(f"threshold {trained.threshold.value:.4f}: {trained.threshold.origin}")
    weights = f" --weights {trained.tower}" if is_weights(split_architecture(trained.tower)[1]) else ""
    tried = f"headclip-med predict SCAN --model {trained.pack}{weights} --out results"
    say_result(f"pack: {trained.pack}; try it: {tried}")
