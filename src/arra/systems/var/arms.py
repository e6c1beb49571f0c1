"""The work of the claim: one model trained and judged, and how long drawing takes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from arra.experiments.digit_codes import Words
from arra.experiments.digits import WORDS, Judge, MemoryStore, digits
from arra.experiments.once import once
from arra.generators.scales import ScaleGenerator
from arra.metrics.likelihood import held_out_bits
from arra.objectives.laws import NextToken
from arra.samplers.scales import ScaleSampler
from arra.settings import BatchConfig, SamplingConfig
from arra.systems.var.models import decode, make_generator, store_of
from arra.systems.var.recipe import ARMS, Recipe
from arra.training.loop import train

_NOT_GUIDED = SamplingConfig(guidance=1.0)


def train_arm(
    recipe: Recipe, judge: Judge, arm: str, seed: int, folder: Path, quiet: bool
) -> dict[str, Any]:
    """Train one model and judge what it draws."""

    def make(target: Path) -> dict[str, Any]:
        known, held_out = digits()
        generator = make_generator(arm, recipe.size, seed)
        store = store_of(arm, known.cropped(recipe.crop))
        batches = generator.batches(store, replace(recipe.batch, seed=seed))
        config = replace(recipe.train, seed=seed)
        report = train(generator, [NextToken()], batches, config, target / "training")
        return {
            "nats": _nats(generator, store_of(arm, held_out)),
            **_drawn(generator, recipe, judge, arm, seed, _NOT_GUIDED, ""),
            **_drawn(generator, recipe, judge, arm, seed, recipe.guided, "guided "),
            "step_seconds": report.median_step_seconds,
            "parameters": report.parameters,
        }

    settings = [recipe, ARMS[arm], seed]
    return once(folder / f"{arm}-{seed}", settings, make)


def _nats(generator: ScaleGenerator, store: MemoryStore) -> float:
    """Nats a held-out picture: of its codes, a bound of those of the picture where several codes
    give the same one."""
    size = max(n for n in range(1, 201) if len(store) % n == 0)
    batches = generator.batches(store, BatchConfig(size, drop_caption=0.0))
    parts = [batches.batch(number) for number in range(len(store) // size)]
    return held_out_bits(generator, parts).per_picture * math.log(2)


def _drawn(
    generator: ScaleGenerator,
    recipe: Recipe,
    judge: Judge,
    arm: str,
    seed: int,
    sampling: SamplingConfig,
    prefix: str,
) -> dict[str, float]:
    asked = np.arange(recipe.drawn) % len(WORDS)
    seeds = [seed * 1_000_003 + picture for picture in range(recipe.drawn)]
    sampler = ScaleSampler(sampling)
    codes = sampler(Words(generator), [WORDS[digit] for digit in asked], seeds, batch=500)
    pictures = decode(arm, codes)
    right = judge.classes(pictures) == asked
    return {
        f"{prefix}frechet": judge.distance(pictures),
        f"{prefix}accuracy": float(right.mean()),
    }


def drawing_seconds(recipe: Recipe, batch: int) -> dict[str, list[float]]:
    """Seconds a picture of each arm, in batches of `batch`, the arms in turn; the first not timed.

    What a network has learnt does not change how long it takes.
    """
    models = {arm: Words(make_generator(arm, recipe.size, 0).eval()) for arm in ARMS}
    captions, sampler = [WORDS[n % len(WORDS)] for n in range(batch)], ScaleSampler(_NOT_GUIDED)
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for number in range(recipe.timed + 1):
        for arm, model in models.items():
            began = time.perf_counter()
            decode(arm, sampler(model, captions, range(batch), batch=batch))
            if number:
                found[arm].append((time.perf_counter() - began) / batch)
    return found


def middle(values: Sequence[float]) -> float:
    """Median."""
    return float(np.median(values))
