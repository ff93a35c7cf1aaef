"""The evaluation's metrics as an ignite metric: counts by score, summed over cases and processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite import distributed as idist
from ignite.engine import Engine as IgniteEngine
from ignite.metrics import Metric
from numpy.typing import NDArray
from torch import Tensor

from headclip_med.base.errors import InputError
from headclip_med.engine.volume_map import volume_score
from headclip_med.evaluation.metrics import curves
from headclip_med.evaluation.metrics.counts import LEVELS, CountSum, ScoreCounts, count_map, count_scores, level_scores

LEVEL_NAMES = ("pixel", "slice", "case")


class AnomalyMetrics(Metric):
    """AUROC, average precision and F1-max of pixels, slices and cases, AUPRO, and Dice at the threshold.

    All of them go to ``engine.state.metrics`` under ``PREFIX_pixel_auroc`` and the like. Those that are undefined (one
    class only) are left out. The metric's own name gets ``key``, NaN where undefined. Pixels are counted inside the
    patient, where maps are above 0, and wherever there is a lesion. Background slices without a lesion do not count.
    Labels below 0 mean that nothing is known: such voxels count nowhere, nor do slices with them that hold no lesion.

    Args:
        key: what the metric itself is, such as ``pixel_average_precision``.
        threshold: for Dice, which is the mean over cases with a lesion.
        prefix: of the names.
        output_transform: the engine's output → list of decollated data with ``pred`` and ``label``, and of
            :class:`headclip_med.bundle.inferer.TakeScoresd`. The default takes the output as it is.

    Raises:
        InputError: no such key.
    """

    required_output_keys = None

    def __init__(
        self,
        key: str = "pixel_average_precision",
        threshold: float = 0.5,
        prefix: str = "val",
        output_transform: Callable[[Any], Any] = lambda output: output,
    ) -> None:
        names = metric_names()
        if key not in names:
            raise InputError(f"The key metric must be one of {', '.join(names)}", key)
        self.key, self.threshold, self.prefix = key, threshold, prefix
        self.dice_sum = self.dice_cases = 0.0
        self._sums = {level: CountSum() for level in LEVEL_NAMES}
        super().__init__(output_transform=output_transform, skip_unrolling=True)  # no case may be left in an iteration

    def reset(self) -> None:
        """Forget every case."""
        self._sums = {level: CountSum() for level in LEVEL_NAMES}
        self.dice_sum = self.dice_cases = 0.0

    def update(self, output: Sequence[Mapping[str, Any]]) -> None:
        """Count some cases.

        Args:
            output: decollated data of each, with ``pred`` and ``label (1, I, J, K)``.
        """
        for data in output:
            label = _array(data["label"])[0]
            self._add(_array(data["pred"])[0], label > 0, label < 0, data)

    def compute(self) -> dict[str, float]:
        """Compute every defined metric over all processes.

        Returns:
            Name without prefix → value in [0, 1].
        """
        counts = {level: _over_processes(total) for level, total in self._sums.items()}
        dice, cases = (_sum(value) for value in (self.dice_sum, self.dice_cases))
        found: dict[str, float] = {}
        for level, part in counts.items():
            if not (part.n_negatives and part.n_positives):
                continue
            found[f"{level}_auroc"] = float(curves.auroc(part.negatives, part.positives))
            found[f"{level}_average_precision"] = float(curves.average_precision(part.negatives, part.positives))
            found[f"{level}_f1_max"] = float(curves.f1_max(part.negatives, part.positives))
        pixels = counts["pixel"]
        if "pixel_auroc" in found:
            found["pixel_aupro"] = float(curves.aupro(pixels.negatives, pixels.regions, pixels.n_regions))
            found["best_threshold"] = curves.best_f1(pixels)[1]
        return found | ({"dice": dice / cases} if cases else {})

    def completed(self, engine: IgniteEngine, name: str) -> None:
        """Put everything into the engine's metrics.

        Args:
            engine: whose run is over.
            name: of the metric itself, which gets the value of ``key``.
        """
        found = self.compute()
        engine.state.metrics |= {f"{self.prefix}_{metric}": value for metric, value in found.items()}
        engine.state.metrics[name] = found.get(self.key, float("nan"))

    def _add(
        self, found: NDArray[np.float32], truth: NDArray[np.bool_], ignored: NDArray[np.bool_], data: Mapping[str, Any]
    ) -> None:
        self._sums["pixel"].add(count_map(found, truth, inside=(found > 0) & ~ignored))
        if truth.any():
            predicted = (found >= self.threshold) & ~ignored
            self.dice_sum += 2 * float((predicted & truth).sum()) / float(predicted.sum() + truth.sum())
            self.dice_cases += 1
        if "pred_slice_scores" not in data:
            case, judged = float(found.max()), bool(truth.any() or not ignored.any())
        else:
            scores, background = (_array(data[f"pred_slice_{part}"]).ravel() for part in ("scores", "background"))
            axis = int(data["pred_slice_axis"])
            others = tuple(a for a in range(truth.ndim) if a != axis)
            labels, is_open = np.asarray(truth.any(axis=others)), np.asarray(ignored.any(axis=others))
            known, seen = labels | ~is_open, ~background.astype(bool)
            kept = (seen | labels) & known
            self._sums["slice"].add(count_scores(scores[kept].astype(np.float32), labels[kept]))
            whole = float(data.get("pred_score", volume_score(scores.tolist())))
            case, judged = whole if known.all() else volume_score(scores[known & seen].tolist()), bool(known.any())
        if judged:
            self._sums["case"].add(count_scores(np.array([case], dtype=np.float32), np.array([bool(truth.any())])))


def metric_names() -> tuple[str, ...]:
    """List everything that can be a key metric.

    Returns:
        Names such as ``pixel_auroc``.
    """
    kinds = ("auroc", "average_precision", "f1_max")
    return (*(f"{level}_{kind}" for level in LEVEL_NAMES for kind in kinds), "pixel_aupro", "dice")


def _array(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _over_processes(total: CountSum) -> ScoreCounts:
    """Counts of all processes."""
    counts = total.counts()
    if idist.get_world_size() == 1:
        return counts
    places = np.searchsorted(level_scores(), counts.scores)
    table = torch.zeros(3, LEVELS, dtype=torch.float64)
    for row, part in zip(table, (counts.negatives, counts.positives, counts.regions), strict=True):
        row[torch.from_numpy(places)] = torch.from_numpy(part)
    summed = idist.all_reduce(table.to(idist.device()))
    assert isinstance(summed, Tensor)
    negatives, positives, regions = summed.cpu().numpy()
    used = np.flatnonzero(negatives + positives)
    return ScoreCounts(level_scores()[used], negatives[used], positives[used], regions[used], _sum(counts.n_regions))


def _sum(value: float) -> float:
    """A number summed over all processes."""
    return float(idist.all_reduce(torch.tensor(value, dtype=torch.float64, device=idist.device())))
