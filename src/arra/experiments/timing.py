"""How much one way of training costs beside another: steps of both in turn, in one process."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from arra.experiments.arms import Arm, TrainingPlan, arm_parts
from arra.experiments.bench import Bench
from arra.training.loop import stepper


def step_seconds(
    bench: Bench, arms: Mapping[str, Arm], plan: TrainingPlan, repeats: int = 30
) -> dict[str, list[float]]:
    """Seconds of `repeats` training steps of each arm, one step of each in turn.

    The arms take turns because a busy machine's speed drifts: compare step by step. They do so in
    the order given and in the opposite one, because who comes first in a round pays for the end of
    the last. The steps are the training loop's own. The first three are not timed.
    """
    times: dict[str, list[float]] = {name: [] for name in arms}
    with tempfile.TemporaryDirectory() as scratch:
        steps = {
            name: stepper(*arm_parts(bench, arm, plan, seed=0), plan.train, Path(scratch) / name)
            for name, arm in arms.items()
        }
        for number in range(repeats + 3):
            for name in list(steps)[:: -1 if number % 2 else 1]:
                began = time.perf_counter()
                steps[name](number)
                if number >= 3:
                    times[name].append(time.perf_counter() - began)
    return times


def median_ratio(one: list[float], other: list[float]) -> tuple[float, float, float]:
    """Median of the step-by-step ratios one / other, and the quartiles around it."""
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return middle, low, high
