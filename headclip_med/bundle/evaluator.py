"""Case by case: one that fails is named at the end, and the others are done."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from monai.data import DataLoader, list_data_collate
from monai.engines import SupervisedEvaluator
from torch.utils.data import Dataset

from headclip_med.bundle.failures import BundleRunError, reason

log = logging.getLogger(__name__)

_FAILED = "failed_cases"  # key of a batch: those of its cases that could not be loaded


class FailedCase(NamedTuple):
    """A case that could not be done, and why."""

    name: str
    reason: str


class CaseLoader(DataLoader):
    """MONAI's loader, whose batches lack the cases that cannot be loaded and tell :class:`CaseEvaluator` of them.

    Args:
        dataset, num_workers, kwargs: as of :class:`monai.data.DataLoader`.
    """

    def __init__(self, dataset: Dataset[Any], num_workers: int = 0, **kwargs: Any) -> None:
        kwargs["collate_fn"] = partial(_collate, kwargs.get("collate_fn", list_data_collate))
        super().__init__(_Loaded(dataset), num_workers, **kwargs)


class CaseEvaluator(SupervisedEvaluator):
    """MONAI's evaluator, which goes on with the next case where one fails; its arguments are the same.

    ignite ends a run at the first exception, whatever handler is told of it; so that it never sees one here.

    Attributes:
        failed: the cases of the last run that could not be done.
    """

    failed: tuple[FailedCase, ...] = ()

    def run(self, global_epoch: int = 1) -> None:
        """Evaluate every case.

        Raises:
            BundleRunError: some failed; the others are done, their files and the metrics are written.
        """
        self.failed = ()
        super().run(global_epoch)
        if self.failed:
            names: dict[str, list[str]] = {}
            for case in self.failed:
                names.setdefault(case.reason.rstrip("."), []).append(case.name)
            told = "".join(f"\n  {', '.join(cases)}: {why}" for why, cases in names.items())
            do = "The others are done. Correct these or leave them out"
            raise BundleRunError("Every case must be scored", f"{len(self.failed)} failed:{told}", do)

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> Any:
        self._note(batchdata.pop(_FAILED, ()))
        if batchdata:
            names = _names(batchdata)
            try:
                return super()._iteration(engine, batchdata)
            except Exception as error:
                self._note([FailedCase(name, _reason(error)) for name in names])
        engine.state.batch, engine.state.output = [], []
        return engine.state.output

    def _note(self, cases: Sequence[FailedCase]) -> None:
        for case in cases:
            log.warning("%s failed: %s", case.name, case.reason)
        self.failed += tuple(cases)


class _Loaded(Dataset[Any]):
    """A dataset whose items are what was loaded, or why that was not possible."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except Exception as error:
            items = getattr(self.dataset, "data", ())
            item = items[index] if index < len(items) else {}
            return FailedCase(_name(item) or f"case {index}", _reason(error))


def _collate(collate: Callable[[Sequence[Any]], Any], batch: Sequence[Any]) -> dict[str, Any]:
    failed = [case for case in batch if isinstance(case, FailedCase)]
    loaded = [case for case in batch if not isinstance(case, FailedCase)]
    try:
        return {**(collate(loaded) if loaded else {}), _FAILED: failed}
    except Exception as error:
        words = f"it cannot be in one batch with others: set the loader's batch_size to 1 ({_reason(error)})"
        return {_FAILED: failed + [FailedCase(_name(case), words) for case in loaded]}


def _reason(error: Exception) -> str:
    """In words; with ``HEADCLIP_DEBUG`` in the environment the error ends the run instead, traceback and all."""
    if os.environ.get("HEADCLIP_DEBUG"):
        raise error
    return reason(error)


def _names(batch: Mapping[str, Any]) -> list[str]:
    given = batch.get("name")
    if given:
        return [str(name) for name in given]
    files = next((value.meta["filename_or_obj"] for value in batch.values() if hasattr(value, "meta")), ["a case"])
    return [Path(file).name for file in files]


def _name(item: Any) -> str:
    """A case's ``name``, else its first file's."""
    if not isinstance(item, Mapping):
        return ""
    if item.get("name"):
        return str(item["name"])
    files = item.get("image", "")
    return Path(str(files[0] if isinstance(files, list | tuple) and files else files)).name
