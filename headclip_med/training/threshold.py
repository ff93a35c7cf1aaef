"""The threshold of a trained pack, from the cases that chose its best step."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.datasets.phantom import Phantom
from headclip_med.engine.engine import Engine
from headclip_med.engine.load import load_engine
from headclip_med.engine.torch_scorer import TorchScorer
from headclip_med.evaluation.metrics.counts import ScoreCounts, count_scores, level_scores
from headclip_med.evaluation.metrics.curves import dice_curve
from headclip_med.models.pack import load_pack
from headclip_med.models.record import Threshold, write_record
from headclip_med.training.auxiliary import Part
from headclip_med.training.config import TrainConfig
from headclip_med.training.synthetic import TRAINING_SEED_LIMIT, random_phantom

log = logging.getLogger(__name__)

CANDIDATES = np.round(np.arange(0.05, 0.96, 0.01), 2)
_SEED = 7

# Cases that choose the threshold, at most.
_CALIBRATION_CASES = 24


@dataclass(frozen=True)
class Calibration:
    """The chosen threshold, its mean Dice over heads with a lesion, and how many heads there were."""

    threshold: float
    dice: float
    heads: int


def calibration_heads(count: int) -> list[Phantom]:
    """Make synthetic heads with at least one lesion, of seeds that training never uses.

    Args:
        count: How many.

    Returns:
        The same heads for the same number.
    """
    heads: list[Phantom] = []
    rng = np.random.default_rng([_SEED, 0])
    while len(heads) < count:
        phantom = random_phantom(rng, TRAINING_SEED_LIMIT + int(rng.integers(TRAINING_SEED_LIMIT)))
        if phantom.truth.any():
            heads.append(phantom)
    return heads


def dice_by_threshold(volume_map: NDArray[np.float32], truth: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Compute the Dice of ``volume_map >= t`` with ``truth`` for every candidate t, from two histograms.

    Args:
        volume_map: ``(I, J, K)`` in [0, 1].
        truth: ``(I, J, K)``, not 0 in a lesion.

    Returns:
        In [0, 1], one for each of ``CANDIDATES``.
    """
    edges = np.append(CANDIDATES, np.inf)
    inside = np.histogram(volume_map[truth > 0], edges)[0][::-1].cumsum()[::-1]
    everywhere = np.histogram(volume_map, edges)[0][::-1].cumsum()[::-1]
    return np.asarray(2 * inside / (everywhere + int(truth.sum())))


def calibrate(engine: Engine[TorchScorer], heads: list[Phantom]) -> Calibration:
    """Find the candidate with the highest mean Dice over ``heads``.

    Args:
        engine: With the pack.
        heads: Each with a lesion.

    Returns:
        The threshold and its mean Dice.
    """
    curves = [dice_by_threshold(engine.predict(p.array, affine=p.affine).map_array, p.truth) for p in heads]
    mean = np.mean(curves, axis=0)
    best = int(mean.argmax())
    return Calibration(float(CANDIDATES[best]), float(mean[best]), len(heads))


def calibrate_pack(folder: Path, tower: str | None = None, heads: int = 24) -> Calibration:
    """Calibrate the pack in ``folder`` and rewrite its ``pack.json``.

    Args:
        folder: Of the pack.
        tower: Weights of a pack without them, as for :func:`headclip_med.encoders.build.build_tower`.
        heads: How many synthetic heads.

    Returns:
        The threshold and its mean Dice.
    """
    outcome = calibrate(load_engine(folder, "cpu", precision="float32", weights=tower), calibration_heads(heads))
    record = load_pack(folder).record
    origin = f"highest mean Dice over {outcome.heads} synthetic heads kept apart from training"
    validation = {
        **record.validation,
        "synthetic_dice": round(outcome.dice, 4),
        "synthetic_heads": outcome.heads,
    }
    record = record.model_copy(
        update={"threshold": Threshold(value=outcome.threshold, origin=origin), "validation": validation}
    )
    write_record(folder, record)
    log.info("threshold %.2f, mean Dice %.3f over %d heads", outcome.threshold, outcome.dice, outcome.heads)
    return outcome


def choose_threshold(config: TrainConfig, parts: Sequence[Part]) -> Threshold:
    """Choose the threshold with the highest mean Dice over the validation cases that hold a lesion.

    Args:
        config: Of the run, whose pack is written.
        parts: At most 24 cases held back of each are scored.

    Returns:
        In (0, 1), a half where no validation case holds a lesion.
    """
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


def main() -> None:
    """Calibrate the pack that the command names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tower", help="weight file or ARCH.TAG@FILE")
    parser.add_argument("--heads", type=int, default=24)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    calibrate_pack(options.folder, options.tower, options.heads)


if __name__ == "__main__":
    main()
