"""The work of the claim: one model trained, and judged with its context more and more disturbed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arra.experiments.digit_vectors import codes_of, draw, grey_of, learn
from arra.experiments.digits import WORDS, Judge, digits
from arra.experiments.once import once
from arra.generators.entities import EntityCache, EntityGenerator
from arra.generators.vectors import VectorConfig
from arra.randomness import seeded
from arra.systems.xar.recipe import DEVIATIONS, SIDE, Recipe


class Disturbed(EntityGenerator):
    """Reads what it drew with noise upon it; what it drew stays as it is."""

    deviation = 0.0

    def remember(self, cache: EntityCache, last: Tensor) -> None:
        if not self.deviation:
            return super().remember(cache, last)
        random = torch.Generator().manual_seed(len(cache.drawn))
        noise = torch.randn(last.shape, generator=random)
        return super().remember(cache, last + self.deviation * noise)


def make_generator(recipe: Recipe, seed: int) -> Disturbed:
    """An untrained generator."""
    config = VectorConfig(
        (SIDE // recipe.patch,) * 2,
        recipe.patch**2,
        text=len(WORDS) + 1,
        longest=1,
        size=recipe.size,
        options=recipe.options,
    )
    with seeded(seed):
        return Disturbed(config)


def train_arm(
    recipe: Recipe, judge: Judge, arm: str, seed: int, folder: Path, quiet: bool
) -> dict[str, Any]:
    """Train one model and judge what it draws."""
    mine = recipe.of(arm)

    def make(target: Path) -> dict[str, Any]:
        known, _ = digits()
        generator = make_generator(mine, seed)
        report = learn(
            generator,
            codes_of(known.pictures[:, None, :, :, 0] / 255.0, mine.patch),
            known.labels.tolist(),
            replace(mine.batch, seed=seed),
            replace(mine.train, seed=seed),
            target / "training",
        )
        generator.eval()
        return {
            "step_seconds": report.median_step_seconds,
            "parameters": report.parameters,
            **{str(s): judged(generator, s, mine, judge, seed) for s in DEVIATIONS},
        }

    return once(folder / f"{arm}-{seed}", [mine, arm, seed, DEVIATIONS], make)


def judged(
    generator: Disturbed, deviation: float, recipe: Recipe, judge: Judge, seed: int
) -> dict[str, float]:
    """Distance and accuracy of pictures whose context is disturbed."""
    generator.deviation = deviation
    asked = np.arange(recipe.drawn) % len(WORDS)
    grey = grey_of(draw(generator, asked.tolist(), seed), recipe.patch)[:, 0]
    pictures = np.repeat(np.round(grey * 255).astype(np.uint8)[..., None], 3, axis=-1)
    return {
        "frechet": judge.distance(pictures),
        "accuracy": float((judge.classes(pictures) == asked).mean()),
    }
