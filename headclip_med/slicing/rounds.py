"""Which slices are scored first, which around suspicious ones next, and what lies between: plain arithmetic."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

# Shares of the slices of the first round that are looked at closely: the highest tenth whatever the threshold, so that
# the volume's score, the mean of its highest slices, rests on slices that were scored; and not more than a quarter, so
# that a threshold that is too low for a scan does not cost the time that the preset should save.
_AT_LEAST, _AT_MOST = 0.1, 0.25


def first_round(indices: Sequence[int], step: int) -> list[int]:
    """Choose every ``step``-th slice and the last one.

    Args:
        indices: Slices, rising.
        step: Distance in ``indices``, at least 1.

    Returns:
        The chosen slices, rising.
    """
    chosen = list(indices[::step])
    return chosen if not indices or chosen[-1] == indices[-1] else [*chosen, indices[-1]]


def second_round(
    indices: Sequence[int], scores: Mapping[int, float], peaks: Mapping[int, float], threshold: float
) -> list[int]:
    """Choose the slices between a suspicious slice and the next scored ones before and after it.

    Args:
        indices: All slices, rising.
        scores: Score of each slice of the first round.
        peaks: Highest value of the map of each of them, in [0, 1].
        threshold: Slices whose map reaches it are suspicious, in the order of their scores.

    Returns:
        The slices to score next, rising.
    """
    scored = sorted(scores)
    reaching = sum(peaks[i] >= threshold for i in scored)
    least, most = (max(1, round(share * len(scored))) for share in (_AT_LEAST, _AT_MOST))
    suspicious = set(sorted(scored, key=lambda i: (-scores[i], i))[: min(max(reaching, least), most)])
    wanted = []
    for index in indices:
        if index not in scores:
            place = bisect_left(scored, index)
            if {scored[place - 1], scored[place]} & suspicious:
                wanted.append(index)
    return wanted


def between(index: int, scored: Sequence[int]) -> tuple[int, int, float]:
    """Find the scored slices around one that was not scored.

    Args:
        index: A slice between the first and the last scored one.
        scored: Scored slices, rising.

    Returns:
        The scored slices before and after it, and the share in [0, 1] that the later one has in it.
    """
    place = bisect_left(scored, index)
    below, above = scored[place - 1], scored[place]
    return below, above, (index - below) / (above - below)
