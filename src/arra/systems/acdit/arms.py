"""The work of the claim: one model trained, and what moves in the clips that it draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arra.experiments.digit_vectors import Greys, draw, learn, word_generator
from arra.experiments.digits import WORDS, MemoryStore
from arra.experiments.once import once
from arra.generators.blocks import BlockGenerator
from arra.generators.vectors import VectorConfig
from arra.heads.processes import TIMES, normal
from arra.orders.entities import Entities
from arra.systems.acdit.clips import SIDE, STEPS, clips, frame_distance, right, steady
from arra.systems.acdit.recipe import CLEAN, NOISED, Recipe


class NoisedPast(BlockGenerator):
    """The copy that later frames read has noise and times of its own, and is told its times; when
    drawing the past is as it was drawn, at time 0 (in the manner of Diffusion Forcing)."""

    plain_context = False

    def context(
        self, target: Tensor, random: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None] | None:
        """Of flow: (1 - s) x + s e."""
        rows, device = (len(target), self.units), target.device
        time = self.process.times(rows[0] * rows[1], random, device).view(rows)
        share = (time / TIMES)[:, self.entities.owner().to(device), None]
        noise = normal(target.shape, random, device)
        return (1.0 - share) * target + share * noise, time


class Whole(BlockGenerator):
    """All frames are one block."""

    @classmethod
    def entities_of(cls, config: VectorConfig) -> Entities:
        found = Entities.of_frames(config.grid, config.frames)
        return replace(found, sizes=(len(found.places),))


def make_generator(arm: str, recipe: Recipe, seed: int) -> BlockGenerator:
    """An untrained generator of this arm."""
    side, channels = SIDE // recipe.patch, recipe.frames * recipe.patch**2
    return word_generator(
        {CLEAN: BlockGenerator, NOISED: NoisedPast}.get(arm, Whole),
        (side, side, channels),
        recipe.size,
        recipe.options,
        seed,
        words=len(STEPS),
        frames=recipe.frames,
    )


def train_arm(recipe: Recipe, arm: str, seed: int, folder: Path, quiet: bool) -> dict[str, Any]:
    """Train one model and judge what it draws."""

    def make(target: Path) -> dict[str, Any]:
        generator, greys = make_generator(arm, recipe, seed), Greys(recipe.patch)
        grey, ways = clips(recipe.clips, recipe.frames, seed, held_out=False)
        store = MemoryStore([[int(way) + 1] for way in ways], greys.vectors(grey))
        report = learn(generator, store, recipe.batch, recipe.train, seed, target / "training")
        asked = np.arange(recipe.drawn) % len(STEPS)
        # a way is said by the word of its number
        drawn = greys.clips(draw(generator, [WORDS[way] for way in asked], seed))
        np.save(target / "drawn.npy", np.round(drawn * 255).astype(np.uint8))
        (real, told), (other, _) = (
            clips(recipe.drawn, recipe.frames, seed, held) for held in (True, False)
        )
        return {
            "step_seconds": report.median_step_seconds,
            "parameters": report.parameters,
            "right": float(right(drawn, asked).mean()),
            "steady": float(steady(drawn).mean()),
            "frechet": frame_distance(drawn, real),
            "truth": float(right(real, told).mean()),
            "floor": frame_distance(other, real),
        }

    return once(folder / f"{arm}-{seed}", [recipe, arm, seed], make)
