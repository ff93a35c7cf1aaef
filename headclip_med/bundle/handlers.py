"""What a trained network leaves behind besides its checkpoint: a pack for ``headclip-med``, and its data ledger."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ignite import distributed as idist
from ignite.engine import Engine as IgniteEngine
from ignite.engine import Events
from safetensors.torch import save_file

from headclip_med.base.errors import InputError
from headclip_med.base.files import atomic_path, check_writable
from headclip_med.base.types import RESEARCH_ONLY
from headclip_med.bundle.network import DetectorNetwork
from headclip_med.models.pack import TENSORS_NAME
from headclip_med.models.record import LedgerEntry, PackRecord, Threshold, write_record

_SECONDS_BETWEEN = 30.0  # writes of the scores, whose cost grows with the run


def whole_ledger(
    network: DetectorNetwork,
    ledger: Sequence[LedgerEntry],
    checkpoint: str | Path | None = None,
) -> tuple[LedgerEntry, ...]:
    """Gather everything that a network has seen, each entry once.

    Args:
        network: with what its pack was made on.
        ledger: what it is trained on now.
        checkpoint: that training began with, None for the weights of the model itself.

    Returns:
        The oldest entries first.

    Raises:
        InputError: a file beside the checkpoint that is no ledger.
    """
    earlier = [] if checkpoint is None else [LedgerEntry.model_validate(entry) for entry in read_ledger(checkpoint)]
    return tuple(dict.fromkeys((*network.model.ledger, *earlier, *ledger)))


def seen_by(network: DetectorNetwork, checkpoint: str | Path | None = None) -> list[dict[str, Any]]:
    """Gather everything that a network has seen that is not trained further.

    Args:
        network, checkpoint: as of :func:`whole_ledger`.

    Returns:
        Its ledger as plain values, as :meth:`headclip_med.bundle.data.Cases.everything` takes it.
    """
    return [entry.model_dump(mode="json") for entry in whole_ledger(network, (), checkpoint)]


class LedgerSaver:
    """Writes what a network was trained on beside its last checkpoint, at the end of a run or when it breaks off.

    Attach it to the trainer before the ``CheckpointSaver``, so that no checkpoint is without its ledger.

    Args:
        checkpoint: file that the last state is saved to.
        ledger: of :func:`whole_ledger`.
    """

    def __init__(self, checkpoint: str | Path, ledger: Sequence[LedgerEntry]) -> None:
        self.checkpoint, self.ledger = Path(checkpoint), tuple(ledger)

    def attach(self, engine: IgniteEngine) -> None:
        """Attach to a trainer.

        Args:
            engine: the trainer.
        """
        engine.add_event_handler(Events.COMPLETED, self)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self)

    def __call__(self, engine: IgniteEngine, error: BaseException | None = None) -> None:
        """Write the ledger.

        Args:
            engine: the trainer.
            error: what ended the run, left to the handlers that come after.
        """
        if idist.get_rank() == 0:
            check_writable(self.checkpoint.parent)
            write_ledger(self.checkpoint, self.ledger)


class PackSaver:
    """Writes the network as a pack whenever a validation was the best so far, and what it was trained on.

    The ledger lies beside the checkpoint as JSON. ``pack`` beside it is for ``headclip-med predict --model``, with the
    threshold that had the highest pooled Dice on the validation cases. Attach it before the ``CheckpointSaver``, so
    that no checkpoint is without its ledger. In a run of several processes only the first one writes.

    Args:
        checkpoint: file that the best network is saved to.
        network: as it is trained.
        ledger: of :func:`whole_ledger`.
        prefix: of the metrics' names.
        name: of the pack.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        network: DetectorNetwork,
        ledger: Sequence[LedgerEntry],
        prefix: str = "val",
        name: str = "trained",
    ) -> None:
        self.checkpoint, self.network, self.prefix, self.name = Path(checkpoint), network, prefix, name
        self.ledger = tuple(ledger)

    def attach(self, engine: IgniteEngine) -> None:
        """Attach to an evaluator.

        Args:
            engine: the evaluator.
        """
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: IgniteEngine) -> None:
        """Write, if the validation that just ended was the best so far.

        Args:
            engine: the evaluator.
        """
        state: Any = engine.state
        if idist.get_rank() != 0 or state.best_metric_epoch != state.epoch:
            return
        folder = self.checkpoint.parent
        check_writable(folder)
        threshold = state.metrics.get(f"{self.prefix}_best_threshold")
        metrics = {name: round(value, 6) for name, value in sorted(state.metrics.items())}
        save_trained_pack(folder / "pack", self.network, self.name, self.ledger, threshold, metrics)
        write_ledger(self.checkpoint, self.ledger)


class SetTrainer:
    """Tells a handler of the evaluator, ``EarlyStopHandler``, which trainer it stops. Attach it to the trainer.

    A trainer names its evaluator, so that the evaluator's handlers cannot name the trainer in a config.

    Args:
        handler: has ``set_trainer``.
    """

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def attach(self, engine: IgniteEngine) -> None:
        """Attach to a trainer.

        Args:
            engine: the trainer.
        """
        self.handler.set_trainer(engine)


class ScoreSaver:
    """Writes ``scores.csv``, a line per case with what was odd or assumed in it, and ``scores_slices.csv``, a line per
    slice, each whole or not at all.

    They are written at the end of the run, on an error, and every half minute in between, so that a run that is stopped
    by hand lacks the scores of its last half minute at most (or of a case that takes longer).

    Args:
        folder: where to write. Earlier files of these names are replaced.
        key: of the map that :class:`headclip_med.bundle.inferer.TakeScoresd` took the scores of.
    """

    def __init__(self, folder: str | Path, key: str = "pred") -> None:
        self.folder, self.key = Path(folder), key
        self._cases: list[tuple[str, float, str]] = []
        self._slices: list[tuple[str, int, float, bool]] = []
        self._written: float | None = None  # when, on the monotonic clock, since the run started

    def attach(self, engine: IgniteEngine) -> None:
        """Attach to an evaluator.

        Args:
            engine: the evaluator.
        """
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._write)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._break_off)

    def __call__(self, engine: IgniteEngine) -> None:
        """Add the cases of this iteration.

        Args:
            engine: the evaluator.
        """
        state: Any = engine.state
        for batch, data in zip(state.batch, state.output, strict=True):
            name = str(batch.get("name") or Path(str(data[self.key].meta.get("filename_or_obj", "case"))).name)
            notes = "; ".join(str(data.get(f"{self.key}_warnings", "")).splitlines())
            self._cases.append((name, round(float(data[f"{self.key}_score"]), 6), notes))
            scores, background = (data[f"{self.key}_slice_{part}"].flatten() for part in ("scores", "background"))
            for index, (score, is_background) in enumerate(zip(scores.tolist(), background.tolist(), strict=True)):
                self._slices.append((name, index, round(score, 6), bool(is_background)))
        if self._written is not None and time.monotonic() - self._written > _SECONDS_BETWEEN:
            self._write()

    def _start(self, engine: IgniteEngine) -> None:
        self._cases, self._slices = [], []
        check_writable(self.folder)
        self._written = time.monotonic()

    def _break_off(self, engine: IgniteEngine, error: BaseException) -> None:
        if self._written is not None:  # else another handler failed before there was anything to write, or to write to
            self._write()
        raise error

    def _write(self) -> None:
        _write_csv(self.folder / "scores.csv", ("case", "score", "warnings"), self._cases)
        _write_csv(self.folder / "scores_slices.csv", ("case", "slice", "score", "background"), self._slices)
        self._written = time.monotonic()


def _write_csv(path: Path, header: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> None:
    out = io.StringIO()
    out.write(f"# {RESEARCH_ONLY}\n")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    with atomic_path(path) as draft:
        draft.write_text(out.getvalue(), encoding="utf-8", errors="backslashreplace", newline="\n")


def save_trained_pack(
    folder: Path,
    network: DetectorNetwork,
    name: str,
    ledger: Sequence[LedgerEntry],
    threshold: float | None,
    validation: dict[str, Any],
) -> Path:
    """Write the network's learned tensors as a pack, and an embedded tower with them.

    Args:
        folder: of the pack. Earlier files of its names are replaced.
        network: as it is trained.
        name: of the pack.
        ledger: of :func:`whole_ledger`.
        threshold: on maps, in [0, 1]. None: that of the network's own pack.
        validation: metrics by name.

    Returns:
        The record, ``pack.json``.

    Raises:
        OutputError: the folder cannot be written to.
    """
    model = network.model
    pack = model.pack
    assert pack is not None
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / TENSORS_NAME) as draft:
        save_file({key: value.cpu().contiguous() for key, value in pack.tensors.items()}, draft)
        draft.chmod(0o644)  # safetensors writes it for its owner alone
    tower = pack.record.tower
    if tower.kind == "embedded" and tower.file is not None:
        with atomic_path(folder / tower.file) as draft:
            draft.write_bytes((pack.folder / tower.file).read_bytes())
    cut = pack.record.threshold
    if threshold is not None:
        value = min(max(threshold, 1e-6), 1 - 1e-6)
        cut = Threshold(value=value, origin="highest pooled Dice over the validation cases of the training run")
    return write_record(folder, _record(pack.record, name, cut, ledger, validation))


def _record(
    base: PackRecord, name: str, threshold: Threshold, ledger: Sequence[LedgerEntry], validation: dict[str, Any]
) -> PackRecord:
    facts = base.model_dump() | {
        "name": name,
        "title": f"{base.title}; trained further in a MONAI bundle",
        "threshold": threshold.model_dump(),
        "ledger": [entry.model_dump() for entry in ledger],
        "validation": validation,
    }
    return PackRecord.model_validate(facts)


def write_ledger(checkpoint: Path, ledger: Sequence[LedgerEntry]) -> Path:
    """Write what a checkpoint was trained on beside it: ``model.pt`` → ``model.json``.

    Args:
        checkpoint: that need not be there yet.
        ledger: of :func:`whole_ledger`.

    Returns:
        The file that was written.

    Raises:
        OutputError: it cannot be written.
    """
    path = checkpoint.with_suffix(".json")
    with atomic_path(path) as draft:
        text = json.dumps([entry.model_dump(mode="json") for entry in ledger], indent=1)
        draft.write_text(text + "\n", encoding="utf-8", newline="\n")
    return path


def read_ledger(checkpoint: str | Path) -> list[dict[str, Any]]:
    """Read what a checkpoint was trained on, as the file beside it says.

    Args:
        checkpoint: such as ``model.pt``, beside which ``model.json`` lies.

    Returns:
        The entries as plain values, empty where there is no such file.

    Raises:
        InputError: a file that is no ledger.
    """
    path = Path(checkpoint).with_suffix(".json")
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [LedgerEntry.model_validate(entry).model_dump(mode="json") for entry in entries]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path.name} must be a readable ledger", type(error).__name__, "Train again") from error
