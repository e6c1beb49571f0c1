"""Intervals: bootstrap over prompts and seeds, paired differences, detectable effects.

Rule of the house: a bootstrap over pictures or prompts describes sampling noise only. A claim about
a method rests on the spread over training seeds: `paired_difference` or `clustered_bootstrap`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from arra.errors import InputError
from arra.metrics.measured import Interval, Measured

Statistic = Callable[..., float]


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values))


def ratio(right: np.ndarray, asked: np.ndarray) -> float:
    """Sum of `right` over sum of `asked`; nan when nothing was asked."""
    total = float(np.sum(asked))
    return float(np.sum(right)) / total if total else math.nan


def bootstrap(
    *columns: np.ndarray,
    rng: np.random.Generator,
    statistic: Statistic = _mean,
    resamples: int = 2000,
    level: float = 0.95,
    method: Literal["percentile", "BCa"] = "percentile",
) -> Interval:
    """Interval of `statistic(*columns)`, where rows of all columns (n,) are redrawn together.

    "BCa" corrects bias and skew (Efron 1987); it costs n more evaluations. Both are scipy's. A
    sample whose values are all equal has no spread that resampling could show: its bounds equal
    the value.
    """
    data = [np.asarray(c, dtype=np.float64) for c in columns]
    n = len(data[0])
    if n < 2 or any(c.shape != (n,) for c in data):
        raise InputError("bootstrap: expected columns of equal length, with at least two rows")
    value = statistic(*data)
    label = f"{method} bootstrap"
    if all(np.ptp(c) == 0 for c in data):
        return Interval(value, value, value, level, label)
    from scipy import stats

    result = stats.bootstrap(
        tuple(data),
        statistic,
        n_resamples=resamples,
        paired=len(data) > 1,
        vectorized=False,
        confidence_level=level,
        method=method,
        random_state=rng,
    )
    bounds = result.confidence_interval
    return Interval(value, float(bounds.low), float(bounds.high), level, label)


def mean_measured(
    name: str,
    values: np.ndarray,
    encoder: str,
    rng: np.random.Generator,
    details: dict[str, float | int | str] | None = None,
) -> Measured:
    """The mean of values (N,), with its bootstrap interval where there are two or more."""
    interval = bootstrap(values, rng=rng) if len(values) > 1 else None
    return Measured(name, float(np.mean(values)), len(values), encoder, interval, details or {})


def clustered_bootstrap(
    *columns: np.ndarray,
    rng: np.random.Generator,
    statistic: Statistic = _mean,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Interval of `statistic` over tables (seeds, prompts): seeds and prompts are redrawn both.

    The two factors are crossed (every seed answers the same prompts), so each is resampled on its
    own ("pigeonhole" bootstrap, Owen 2007). It covers training and sampling noise, but with fewer
    than about five seeds it is too narrow: use `paired_difference` then.
    For the difference of two arms over the same seeds and prompts, give the table of differences.
    """
    data = [np.asarray(c, dtype=np.float64) for c in columns]
    shape = data[0].shape
    if len(shape) != 2 or min(shape) < 2 or any(c.shape != shape for c in data):
        raise InputError(
            "clustered_bootstrap: expected equal tables (seeds, prompts), at least 2 x 2"
        )
    drawn = np.empty(resamples)
    for k in range(resamples):
        seeds = rng.integers(shape[0], size=(shape[0], 1))
        prompts = rng.integers(shape[1], size=(1, shape[1]))
        drawn[k] = statistic(*(c[seeds, prompts] for c in data))
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    label = "percentile bootstrap over seeds and prompts"
    return Interval(statistic(*data), float(low), float(high), level, label)


@dataclass(frozen=True)
class PairedDifference:
    """Arm minus baseline over paired training seeds."""

    interval: Interval
    """Mean difference with its t interval."""
    standard_error: float
    p_value: float
    """Two-sided, paired t test."""
    differences: tuple[float, ...]
    """One for each seed, in order."""
    detectable: float
    """The true difference that these seeds would have shown in 80 % of repetitions."""

    def statement(self) -> str:
        """One sentence for a report, with what could have been detected."""
        i, n = self.interval, len(self.differences)
        return (
            f"difference {i.value:+.4g}, {i.level:.0%} interval {i.low:+.4g} to {i.high:+.4g} over "
            f"{n} paired seeds (paired t, p = {self.p_value:.2g}); with this spread a true "
            f"difference of {self.detectable:.3g} would be found 80 % of the time"
        )


def paired_difference(
    arm: Sequence[float], baseline: Sequence[float], level: float = 0.95
) -> PairedDifference:
    """Mean of arm - baseline over paired seeds (same start, data order and sampling noise)."""
    a, b = np.asarray(arm, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2:
        raise InputError("paired_difference: expected two equally long lists of at least two seeds")
    from scipy import stats

    gaps = a - b
    mean = float(gaps.mean())
    error = float(gaps.std(ddof=1) / math.sqrt(len(gaps)))
    half = float(stats.t.ppf((1 + level) / 2, len(gaps) - 1)) * error
    if error > 0:
        p_value = float(2 * stats.t.sf(abs(mean) / error, len(gaps) - 1))
    else:
        p_value = 1.0 if mean == 0 else 0.0
    interval = Interval(mean, mean - half, mean + half, level, "paired t over seeds")
    spread = float(gaps.std(ddof=1))
    detectable = minimum_detectable_effect(spread, len(gaps), level=level)
    return PairedDifference(interval, error, p_value, tuple(gaps.tolist()), detectable)


def pooled_differences(
    arms: Sequence[Sequence[float]], baseline: Sequence[float], level: float = 0.95
) -> list[Interval]:
    """Mean of each arm - baseline over the same seeds, the spread pooled over all arms.

    The classical block design: values are a sum of arm, seed and noise, and the noise is estimated
    from all arms together, with (arms) (seeds - 1) degrees of freedom where a paired t test has
    (seeds - 1). With few seeds the intervals are much narrower; they rest on the assumption that
    noise is equally large in every arm.
    """
    table = np.asarray([baseline, *arms], dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 2 or table.shape[1] < 2:
        raise InputError("pooled_differences: expected one arm or more, all of at least two seeds")
    from scipy import stats

    seeds = table.shape[1]
    noise = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    freedom = (len(table) - 1) * (seeds - 1)
    error = math.sqrt(2 * float((noise**2).sum()) / freedom / seeds)
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    gaps = (table[1:] - table[0]).mean(axis=1).tolist()
    label = f"paired over seeds, spread pooled over {len(table)} arms"
    return [Interval(gap, gap - half, gap + half, level, label) for gap in gaps]


def minimum_detectable_effect(
    spread: float, pairs: int, level: float = 0.95, power: float = 0.8
) -> float:
    """The true mean difference that a two-sided paired t test finds with probability `power`.

    `spread` is the standard deviation of the paired differences. Exact for normal differences, by
    the non-central t law.
    """
    if pairs < 2 or spread < 0 or not 0 < level < 1 or not 1 - level < power < 1:
        raise InputError(
            "minimum_detectable_effect: expected pairs >= 2, spread >= 0, "
            "0 < level < 1 and 1 - level < power < 1"
        )
    if spread == 0:
        return 0.0
    from scipy import optimize, stats

    freedom = pairs - 1
    bound = float(stats.t.ppf((1 + level) / 2, freedom))

    def missing(shift: float) -> float:
        law = stats.nct(freedom, shift)
        # scipy has no number for the far side where next to nothing lies
        return float(law.sf(bound) + np.nan_to_num(law.cdf(-bound))) - power

    high = 1.0
    while missing(high) < 0:
        high *= 2
    shift = float(optimize.brentq(missing, 0.0, high))
    return shift * spread / math.sqrt(pairs)
