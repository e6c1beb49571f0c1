"""How much one way of training costs beside another: steps of both in turn, in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from arra.experiments.arms import Arm, TrainingPlan, arm_parts
from arra.experiments.bench import Bench
from arra.training.joint import Joint
from arra.training.optimizers import build_optimizers


def step_seconds(
    bench: Bench, arms: Mapping[str, Arm], plan: TrainingPlan, repeats: int = 30
) -> dict[str, list[float]]:
    """Seconds of `repeats` training steps of each arm, one step of each in turn.

    The arms take turns because a busy machine's speed drifts: compare step by step. A step is what
    the plan's training does: all micro-batches, clipping, and the update by the plan's optimisers.
    The first three steps are not timed.
    """
    steps = {name: _stepper(bench, arm, plan) for name, arm in arms.items()}
    times: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(repeats + 3):
        for name, step in steps.items():
            began = time.perf_counter()
            step(number)
            if number >= 3:
                times[name].append(time.perf_counter() - began)
    return times


def median_ratio(one: list[float], other: list[float]) -> tuple[float, float, float]:
    """Median of the step-by-step ratios one / other, and the quartiles around it."""
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return middle, low, high


def _stepper(bench: Bench, arm: Arm, plan: TrainingPlan) -> Callable[[int], None]:
    generator, objectives, batches = arm_parts(bench, arm, plan, seed=0)
    if plan.train.compile:
        generator.compile_blocks()
    joint = Joint(generator, objectives).train()
    optimizers = build_optimizers(joint, plan.train)
    parts = plan.train.accumulation

    def step(number: int) -> None:
        for part in range(parts):
            total, _ = joint(batches.batch(number, part, parts), joint.weights(number))
            (total / parts).backward()
        if plan.train.clip is not None:
            torch.nn.utils.clip_grad_norm_(joint.parameters(), plan.train.clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step
