"""The work of the claim: one model trained, and judged in every schedule that it can draw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from arra.experiments.digit_codes import Words
from arra.experiments.digits import WORDS, Judge, digits
from arra.experiments.once import once
from arra.generators.scales import ScaleGenerator
from arra.objectives.laws import NextToken
from arra.orders.schedules import Scales, fitted
from arra.samplers.scales import ScaleSampler
from arra.settings import SamplingConfig
from arra.systems.flexvar.models import (
    decode,
    make_generator,
    store_of,
)
from arra.systems.flexvar.recipe import (
    DEFAULT,
    DIRECT,
    FIXED,
    FLEXIBLE,
    RESIDUAL,
    SIDE,
    UNSEEN,
    Recipe,
    named,
)
from arra.training.loop import train

WEIGHTS = "model.safetensors"


def schedules_of(arm: str) -> tuple[tuple[int, ...], ...]:
    """Those in which an arm can draw: residuals mean something after the trained scales only."""
    return (DEFAULT,) if arm in (RESIDUAL, DIRECT) else (DEFAULT, *UNSEEN)


def scheduled(generator: ScaleGenerator, arm: str, sizes: Scales) -> ScaleGenerator:
    """The generator of an arm, drawing these scales."""
    return generator.scheduled(sizes) if arm in (FIXED, FLEXIBLE) else generator


def train_arm(
    recipe: Recipe, judge: Judge, arm: str, seed: int, folder: Path, quiet: bool
) -> dict[str, Any]:
    """Train one model and judge what it draws."""

    def make(target: Path) -> dict[str, Any]:
        known, _ = digits()
        generator = make_generator(arm, recipe, seed)
        batches = generator.batches(
            store_of(arm, known.cropped(recipe.crop)), replace(recipe.batch, seed=seed)
        )
        config = replace(recipe.train, seed=seed)
        report = train(generator, [NextToken()], batches, config, target / "training")
        generator.eval()
        state = {name: value.contiguous().clone() for name, value in generator.state_dict().items()}
        save_file(state, str(target / WEIGHTS))
        return {
            "step_seconds": report.median_step_seconds,
            "parameters": report.parameters,
            "schedules": {
                named(sides): _judged(generator, arm, sides, recipe, judge, seed)
                for sides in schedules_of(arm)
            },
        }

    return once(folder / f"{arm}-{seed}", [recipe, arm, seed], make)


def _judged(
    generator: ScaleGenerator,
    arm: str,
    sides: tuple[int, ...],
    recipe: Recipe,
    judge: Judge,
    seed: int,
) -> dict[str, float]:
    asked = np.arange(recipe.drawn) % len(WORDS)
    sizes = fitted(sides, (SIDE, SIDE))
    codes = draw(scheduled(generator, arm, sizes), asked, seed)
    pictures = decode(arm, codes, sizes)
    return {
        "frechet": judge.distance(pictures),
        "accuracy": float((judge.classes(pictures) == asked).mean()),
    }


def draw(generator: ScaleGenerator, asked: np.ndarray, seed: int, guidance: float = 1.0) -> Tensor:
    """Codes (N, L) of one picture of each of the digits asked for."""
    seeds = [seed * 1_000_003 + picture for picture in range(len(asked))]
    sampler = ScaleSampler(SamplingConfig(guidance, "linear"))
    captions = [WORDS[digit] for digit in asked]
    with torch.inference_mode():
        return sampler(Words(generator), captions, seeds, batch=500)
