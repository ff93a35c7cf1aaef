"""The threshold of a trained pack, from the cases that chose its best step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headclip_med.engine.torch_engine import load_engine
from headclip_med.evaluation.metrics.counts import ScoreCounts, count_scores, level_scores
from headclip_med.evaluation.metrics.curves import dice_curve
from headclip_med.models.record import Threshold
from headclip_med.training.auxiliary import Part
from headclip_med.training.config import TrainConfig

# Cases that choose the threshold, at most.
_CALIBRATION_CASES = 24


def choose_threshold(config: TrainConfig, parts: Sequence[Part]) -> Threshold:
    """The threshold with the highest mean Dice over the validation cases that hold a lesion."""
    engine = load_engine(config.out, "cpu", precision="float32", weights=config.tower)
    total: np.ndarray[Any, Any] = np.zeros(len(level_scores()))
    cases = 0
    for part in parts:
        for case in part.held_out[:_CALIBRATION_CASES]:
            labelled = part.dataset.load(case)
            if labelled.gt_mask is None or not labelled.gt_mask.any():
                continue
            found = engine.predict(labelled.volume, domain=config.domain).map_array
            known = np.full(found.shape, True) if labelled.ignored is None else ~labelled.ignored
            counts: ScoreCounts = count_scores(found[known], labelled.gt_mask[known])
            total += dice_curve(counts)
            cases += 1
    if not cases:
        return Threshold(value=0.5, origin="a-priori: 0.5, no validation case holds a lesion")
    value = float(np.clip(level_scores()[int(total.argmax())], 1e-6, 1 - 1e-6))
    origin = f"highest mean Dice ({total.max() / cases:.2f}) over {cases} validation cases of the auxiliary data"
    return Threshold(value=value, origin=origin)
