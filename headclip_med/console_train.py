"""What ``headclip-med train`` shows: one bar with loss, validation and the time left."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.progress import TextColumn

from headclip_med.console import err, out, progress_bars
from headclip_med.encoders.weight_places import is_weights, split_architecture
from headclip_med.training.fit import TrainWatcher
from headclip_med.training.objective import Quality

if TYPE_CHECKING:
    from headclip_med.training.run import Trained

_BLOCKS = " ▁▂▃▄▅▆▇█"


class TrainBar(TrainWatcher):
    """A bar on a terminal; validations are lines, so that a log keeps them."""

    def __init__(self) -> None:
        self._bars = progress_bars(TextColumn("{task.fields[more]}"), keep=True)
        self._task = self._bars.add_task("", total=None, more="")
        self._curve: list[float] = []

    def __enter__(self) -> TrainBar:
        if err.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def told(self, words: str) -> None:
        """A line between the others."""
        err.print(words, markup=False)

    def stage(self, words: str) -> None:
        self._bars.reset(self._task, total=None, description=words, more="")
        if not err.is_terminal:
            err.print(words, markup=False)

    def step(self, step: int, steps: int, loss: float) -> None:
        self._bars.update(self._task, completed=step, total=steps, more=f"loss {loss:.4f} {curve(self._curve)}")

    def validated(self, step: int, quality: Quality, best: bool) -> None:
        self._curve.append(quality.average_precision)
        words = f"step {step}: validation AP {quality.average_precision:.4f}, AUROC {quality.auroc:.4f}"
        err.print(words + (" (best so far)" if best else ""), markup=False)


def curve(values: list[float]) -> str:
    """The validation curve in one line of blocks, the latest 30 values."""
    shown = [value for value in values if value == value][-30:]
    if len(shown) < 2 or max(shown) == min(shown):
        return ""
    low, high = min(shown), max(shown)
    return "".join(_BLOCKS[round((value - low) / (high - low) * (len(_BLOCKS) - 1))] for value in shown)


def show_trained(trained: Trained) -> None:
    """Where the pack is and what it is worth on held-back patients."""
    fitted = trained.fitted
    out.print(f"best step {fitted.best_step}: validation AP {fitted.best_score:.4f}", markup=False)
    out.print(f"threshold {trained.threshold.value:.4f}: {trained.threshold.origin}", markup=False)
    weights = f" --weights {trained.tower}" if is_weights(split_architecture(trained.tower)[1]) else ""
    tried = f"headclip-med predict SCAN --model {trained.pack}{weights} --out results"
    out.print(f"pack: {trained.pack}; try it: {tried}", markup=False)
