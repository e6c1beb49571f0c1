"""What pictures of held-out scenes are worth, and what a call costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from arra.data.scenes import Scene
from arra.experiments.bench import Bench
from arra.metrics.frechet import frechet_distance
from arra.metrics.prompts import prompt_accuracy


@dataclass(frozen=True)
class Worth:
    """Pictures of so many prompts, as the reader sees them."""

    right: float
    """Share of prompts that are right in everything."""
    low: float
    high: float
    """Its 95 % interval over prompts."""
    frechet: float
    """Distance to as many real scenes in the reader's features."""


def worth(bench: Bench, pictures: np.ndarray, scenes: Sequence[Scene]) -> Worth:
    """Of pictures (N, S, S, 3) uint8 that were drawn of the captions of these scenes."""
    reader = bench.reader
    scores = prompt_accuracy(reader.read(pictures), list(scenes), bench.config.scene)
    right = scores.measured(reader.name, np.random.default_rng(0))["all"]
    assert right.interval is not None
    real = real_features(bench, len(pictures), 77)
    distance = frechet_distance(real, reader.features(pictures), encoder=reader.name)
    return Worth(right.value, right.interval.low, right.interval.high, distance.value)


def real_features(bench: Bench, count: int, seed: int) -> np.ndarray:
    """(N, D) features of real held-out scenes."""
    return bench.reader.features(bench.scenes("heldout", count, seed=seed)[0])


def floor(bench: Bench, count: int) -> float:
    """Fréchet distance between as many real scenes and others."""
    real, others = (real_features(bench, count, seed) for seed in (77, 78))
    return frechet_distance(real, others, encoder=bench.reader.name).value


def median_seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Median of some calls, after one that warms up."""
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)
