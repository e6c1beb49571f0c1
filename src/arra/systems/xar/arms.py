"""The work of the claim: one model trained, and judged with its context more and more disturbed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arra.experiments.digit_codes import store_of
from arra.experiments.digit_vectors import Greys, draw_digits, learn, word_generator
from arra.experiments.digits import Judge, digits, judged
from arra.experiments.once import once
from arra.generators.entities import EntityCache, EntityGenerator
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
    side = SIDE // recipe.patch
    shape = (side, side, recipe.patch**2)
    return word_generator(Disturbed, shape, recipe.size, recipe.options, seed)


def train_arm(
    recipe: Recipe, judge: Judge, arm: str, seed: int, folder: Path, quiet: bool
) -> dict[str, Any]:
    """Train one model and judge what it draws."""
    mine = recipe.of(arm)

    def make(target: Path) -> dict[str, Any]:
        known, _ = digits()
        generator = make_generator(mine, seed)
        store = store_of(known, Greys(mine.patch).of(known.pictures))
        report = learn(generator, store, mine.batch, mine.train, seed, target / "training")
        return {
            "step_seconds": report.median_step_seconds,
            "parameters": report.parameters,
            **{str(s): disturbed(generator, s, mine, judge, seed) for s in DEVIATIONS},
        }

    return once(folder / f"{arm}-{seed}", [mine, arm, seed, DEVIATIONS], make)


def disturbed(
    generator: Disturbed, deviation: float, recipe: Recipe, judge: Judge, seed: int
) -> dict[str, float]:
    """Distance and accuracy of pictures whose context is disturbed."""
    generator.deviation = deviation
    return judged(judge, draw_digits(generator, Greys(recipe.patch), recipe.drawn, seed))
