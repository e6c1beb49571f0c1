"""The arms of the claim: one generator, and three ways to tell its head the states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from arra.experiments.digit_codes import store_of
from arra.experiments.digit_vectors import Greys, draw_digits, learn, loss_on, word_generator
from arra.experiments.digits import Judge, digits, judged
from arra.experiments.once import once
from arra.generators.map_vectors import MapVectorGenerator
from arra.generators.scale_flow import ScaleFlowGenerator
from arra.heads.map_flow import MapHead
from arra.heads.processes import Process
from arra.randomness import seeded
from arra.systems.flowar.recipe import POOLED, SCATTERED, Recipe

SHAPE = (8, 8, 1)
PIXELS = Greys()
WEIGHTS = "model.safetensors"


class ScatteredHead(MapHead):
    """Told the states of each map in a random order, which nobody tells it."""

    def losses(
        self,
        process: Process,
        target: Tensor,
        noise: Tensor,
        states: Tensor,
        rotary: Tensor,
        random: torch.Generator | None = None,
    ) -> Tensor:
        return super().losses(process, target, noise, scattered(states), rotary, random)

    def sample(
        self,
        process: Process,
        noise: Tensor,
        states: Tensor,
        rotary: Tensor,
        scale: float = 1.0,
        temperature: float = 1.0,
    ) -> Tensor:
        told = scattered(states)
        return super().sample(process, noise, told, rotary, scale, temperature)


def scattered(states: Tensor) -> Tensor:
    """States (B, n, D) in an order of each map's own, of torch's stream."""
    order = torch.rand(states.shape[:2]).argsort(dim=1).to(states.device)
    return states.gather(1, order[..., None].expand_as(states))


class ScatteredGenerator(ScaleFlowGenerator):
    """With that head."""

    head_type = ScatteredHead


def make_generator(arm: str, recipe: Recipe, seed: int) -> MapVectorGenerator:
    """An untrained generator of this arm; all arms have the same weights."""
    kind = ScatteredGenerator if arm == SCATTERED else ScaleFlowGenerator
    options = replace(recipe.options, told="pooled" if arm == POOLED else "spatial")
    return word_generator(kind, SHAPE, recipe.size, options, seed)


def train_arm(
    recipe: Recipe, judge: Judge, arm: str, seed: int, folder: Path, quiet: bool
) -> dict[str, Any]:
    """Train one model, measure its loss on held-out digits, and judge what it draws."""

    def make(target: Path) -> dict[str, Any]:
        known, held_out = digits()
        generator = make_generator(arm, recipe, seed)
        store = store_of(known, PIXELS.of(known.pictures))
        report = learn(generator, store, recipe.batch, recipe.train, seed, target / "training")
        save_file(generator.state_dict(), str(target / WEIGHTS))
        with seeded(seed):
            return {
                "loss": loss_on(generator, PIXELS, held_out, recipe.repeats),
                **judged(judge, draw_digits(generator, PIXELS, recipe.drawn, seed)),
                "step_seconds": report.median_step_seconds,
                "parameters": report.parameters,
            }

    return once(folder / f"{arm}-{seed}", [recipe, arm, seed], make)
