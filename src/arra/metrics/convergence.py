"""Convergence factor: how many times fewer steps a method needs for the same quality.

steps_baseline(q) / steps_method(q) for a stated quality q of a stated measure, both read from
evaluations during training. It counts steps, not time: say beside it what a step costs. A quality
that a curve does not reach is a bound and stays one; nothing is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from arra.errors import InputError
from arra.metrics.bootstrap import paired_difference
from arra.metrics.measured import Interval

Better = Literal["lower", "higher"]
LEAST_EVALUATIONS = 5
"""A curve of fewer says more about the interpolation than about the training."""


@dataclass(frozen=True)
class Curve:
    """A measure at some steps of one training."""

    steps: tuple[int, ...]
    """Updates done, rising, the first at least 1."""
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.values) or len(self.steps) < LEAST_EVALUATIONS:
            raise InputError(
                f"Curve: {len(self.steps)} steps and {len(self.values)} values, expected "
                f"{LEAST_EVALUATIONS} evaluations or more: evaluate more often"
            )
        rising = all(a < b for a, b in zip(self.steps, self.steps[1:], strict=False))
        if self.steps[0] < 1 or not rising or not all(map(math.isfinite, self.values)):
            raise InputError("Curve: expected rising steps from 1 on and finite values")


@dataclass(frozen=True)
class Bounds:
    """A number known exactly (`low` equals `high`) or only to lie between the two."""

    low: float
    high: float
    """May be infinite."""

    @property
    def exact(self) -> bool:
        return self.low == self.high

    def __str__(self) -> str:
        if self.exact:
            return f"{self.low:.3g}"
        if math.isinf(self.high):
            return f"more than {self.low:.3g}" if self.low > 0 else "unknown"
        return (
            f"less than {self.high:.3g}" if self.low == 0 else f"{self.low:.3g} to {self.high:.3g}"
        )


def steps_to(curve: Curve, quality: float, better: Better = "lower") -> Bounds:
    """The step at which `curve` first reaches `quality`, interpolated on the logarithm of steps.

    Reached before the first evaluation: between 0 and its step. Never reached: more than the last
    step. Later returns to a worse value do not count.
    """
    sign = 1.0 if better == "lower" else -1.0
    values = [sign * value for value in curve.values]
    wanted = sign * quality
    first = next((i for i, value in enumerate(values) if value <= wanted), None)
    if first is None:
        return Bounds(float(curve.steps[-1]), math.inf)
    if values[first] == wanted:
        return Bounds(float(curve.steps[first]), float(curve.steps[first]))
    if first == 0:
        return Bounds(0.0, float(curve.steps[0]))
    share = (values[first - 1] - wanted) / (values[first - 1] - values[first])
    low, high = math.log(curve.steps[first - 1]), math.log(curve.steps[first])
    step = math.exp(low + share * (high - low))
    return Bounds(step, step)


@dataclass(frozen=True)
class ConvergenceFactor:
    """Baseline's steps over the method's, for one quality, over paired seeds."""

    factors: tuple[Bounds, ...]
    """One for each seed, in order."""
    interval: Interval | None
    """Geometric mean with the t interval of the logarithms; None where a seed's factor is only
    bounded, or there is one seed."""
    median: Bounds
    """Of the factors: where some are bounds, so is the median."""

    @property
    def reached(self) -> int:
        """Seeds in which both curves reached the quality, after their first evaluation."""
        return sum(factor.exact for factor in self.factors)

    def __str__(self) -> str:
        if self.interval is not None:
            return str(self.interval)
        count = len(self.factors)
        if count == 1:
            return str(self.factors[0])
        return f"{self.median} (median; exact in {self.reached} of {count} seeds)"


def convergence_factor(
    baseline: Sequence[Curve],
    method: Sequence[Curve],
    quality: float | Sequence[float],
    better: Better = "lower",
    level: float = 0.95,
) -> ConvergenceFactor:
    """Steps of the baseline over steps of the method to reach `quality`; above 1: faster.

    Curve i of both is of the same seed. `quality` is one number, or one for each seed (such as each
    baseline's own last value).
    """
    if not baseline or len(baseline) != len(method):
        raise InputError(
            f"convergence_factor: {len(baseline)} and {len(method)} curves, expected one of each "
            "arm for every seed"
        )
    wanted = np.broadcast_to(np.asarray(quality, dtype=np.float64), (len(baseline),)).tolist()
    pairs = [
        (steps_to(b, q, better), steps_to(m, q, better))
        for b, m, q in zip(baseline, method, wanted, strict=True)
    ]
    factors = tuple(
        Bounds(_over(b.low, m.high), b.high / m.low if m.low > 0 else math.inf) for b, m in pairs
    )
    interval = None
    if len(factors) > 1 and all(factor.exact for factor in factors):
        logs = [math.log(factor.low) for factor in factors]
        i = paired_difference(logs, [0.0] * len(logs), level).interval
        value, low, high = (math.exp(x) for x in (i.value, i.low, i.high))
        interval = Interval(value, low, high, level, "paired t over seeds, of logarithms")
    median = Bounds(
        float(np.median([f.low for f in factors])), float(np.median([f.high for f in factors]))
    )
    return ConvergenceFactor(factors, interval, median)


def qualities(
    baseline: Sequence[Curve], shares: Sequence[float] = (0.25, 0.5, 0.75)
) -> dict[str, list[float]]:
    """Qualities to state a factor for, chosen from the baseline alone: name -> one for each seed.

    Each baseline's own last value, and the mean of the baselines after some shares of the steps.
    """
    last = baseline[0].steps[-1]
    found = {}
    for share in shares:
        at = share * last
        mean = float(np.mean([_value_at(curve, at) for curve in baseline]))
        found[f"baseline after {at:.0f} steps"] = [mean] * len(baseline)
    found["baseline's last"] = [curve.values[-1] for curve in baseline]
    return found


def _value_at(curve: Curve, step: float) -> float:
    return float(np.interp(math.log(step), np.log(curve.steps), curve.values))


def _over(above: float, below: float) -> float:
    return 0.0 if math.isinf(below) else above / below
