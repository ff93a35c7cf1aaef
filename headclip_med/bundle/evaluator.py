"""Case by case: one that fails is named at the end, and the others are done."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monai.data import DataLoader, list_data_collate
from monai.data.utils import no_collation
from monai.engines import SupervisedEvaluator
from torch.utils.data import Dataset

from headclip_med.bundle.failures import BundleRunError, reason

log = logging.getLogger(__name__)


class FailedCase(NamedTuple):
    """A case that could not be done, and why."""

    name: str
    reason: str


class CaseLoader(DataLoader):
    """MONAI's loader for :class:`CaseEvaluator`: a batch is a list of cases, :class:`FailedCase` among them.

    Args:
        dataset, num_workers, kwargs: as of :class:`monai.data.DataLoader`, which collates by itself.
    """

    def __init__(self, dataset: Dataset[Any], num_workers: int = 0, **kwargs: Any) -> None:
        super().__init__(_Loaded(dataset), num_workers, **{**kwargs, "collate_fn": no_collation})


class CaseEvaluator(SupervisedEvaluator):
    """MONAI's evaluator, which goes on with the next case where one fails. Its arguments are the same.

    ignite ends a run at the first exception, whatever handler is told of it, so that it sees none here. Cases of one
    shape are scored together, as many as the loader's batch has. Where that fails, and where shapes differ, one by one.

    Attributes:
        failed: the cases of the last run that could not be done.
    """

    failed: tuple[FailedCase, ...] = ()

    def run(self, global_epoch: int = 1) -> None:
        """Evaluate every case.

        Args:
            global_epoch: as of :meth:`monai.engines.SupervisedEvaluator.run`.

        Raises:
            BundleRunError: some failed. The others are done, their files and the metrics are written.
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

    def _iteration(self, engine: SupervisedEvaluator, batchdata: Any) -> Any:
        for case in batchdata:
            if isinstance(case, FailedCase):
                self._note(case)
        loaded = [case for case in batchdata if not isinstance(case, FailedCase)]
        groups = [loaded] if len({_shapes(case) for case in loaded}) == 1 else [[case] for case in loaded]
        done = [pair for cases in groups for pair in self._score(engine, cases)]
        engine.state.batch, engine.state.output = [batch for batch, _ in done], [output for _, output in done]
        return engine.state.output

    def _score(self, engine: SupervisedEvaluator, cases: Sequence[Any]) -> list[tuple[Any, Any]]:
        """Input and output of every case that could be done, decollated."""
        try:
            engine.state.batch = list_data_collate(cases)
            super()._iteration(engine, engine.state.batch)
            return list(zip(engine.state.batch, engine.state.output, strict=True))
        except Exception as error:
            if len(cases) > 1:
                return [pair for case in cases for pair in self._score(engine, [case])]
            self._note(FailedCase(_name(cases[0]) or "a case", _reason(error)))
            return []

    def _note(self, found: FailedCase) -> None:
        case = FailedCase(
            *(text.encode("utf-8", "backslashreplace").decode() for text in found)
        )  # file names may be bytes
        log.warning("%s failed: %s", case.name, case.reason)
        self.failed += (case,)


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


def _reason(error: Exception) -> str:
    """In words. With ``HEADCLIP_DEBUG`` in the environment the error ends the run instead, traceback and all."""
    if os.environ.get("HEADCLIP_DEBUG"):
        raise error
    return reason(error)


def _shapes(case: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple((key, tuple(value.shape)) for key, value in sorted(case.items()) if hasattr(value, "shape"))


def _name(case: Mapping[str, Any]) -> str:
    """A case's ``name``, else that of its first file, before or after it was read."""
    if case.get("name"):
        return str(case["name"])
    image = case.get("image", "")
    if hasattr(image, "meta"):
        image = image.meta.get("filename_or_obj", "")
    return Path(str(image[0] if isinstance(image, list | tuple) and image else image)).name
