"""The arms of the claim: one generator, and three ways to tell its head the states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from arra.experiments.digit_maps import digit_generator, draw, judged, learn, loss_on
from arra.experiments.digits import Judge, digits
from arra.experiments.once import once
from arra.generators.map_vectors import MapVectorGenerator
from arra.generators.scale_flow import ScaleFlowGenerator
from arra.heads.map_flow import MapHead
from arra.heads.processes import Process
from arra.randomness import seeded
from arra.systems.flowar.recipe import POOLED, SCATTERED, Recipe

SIDE = 8
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
    return digit_generator(kind, SIDE, recipe.size, options, seed)


def train_arm(
    recipe: Recipe, judge: Judge, arm: str, seed: int, folder: Path, quiet: bool
) -> dict[str, Any]:
    """Train one model, measure its loss on held-out digits, and judge what it draws."""

    def make(target: Path) -> dict[str, Any]:
        known, held_out = digits()
        generator = make_generator(arm, recipe, seed)
        step = learn(generator, known, recipe.batch, recipe.train, seed, target / "training")
        save_file(generator.state_dict(), str(target / WEIGHTS))
        with seeded(seed):
            return {
                "loss": loss_on(generator, held_out, recipe.repeats),
                **judged(judge, draw(generator, recipe.drawn, seed)),
                "step_seconds": step,
                "parameters": sum(p.numel() for p in generator.parameters()),
            }

    return once(folder / f"{arm}-{seed}", [recipe, arm, seed], make)
