"""Numbers over seeds, as results record them: means and paired differences with t intervals."""

from __future__ import annotations

from collections.abc import Sequence

from arra.metrics.bootstrap import PairedDifference, paired_difference
from arra.systems.results import Estimate


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean over seeds with its t interval; of one seed no interval."""
    if len(values) < 2:
        return Estimate(values[0], per_seed=tuple(values))
    gap = paired_difference(values, [0.0] * len(values)).interval
    return Estimate(gap.value, gap.low, gap.high, tuple(values))


def estimate_of(difference: PairedDifference) -> Estimate:
    """A paired difference as a result records it."""
    i = difference.interval
    return Estimate(i.value, i.low, i.high, difference.differences)
