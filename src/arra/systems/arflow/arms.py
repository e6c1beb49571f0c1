"""The work of the claim: one model trained on digits, and judged by what it draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from arra.data.tokenizer import train_text_tokenizer
from arra.experiments.digit_codes import LEVELS, greys, pictures_of
from arra.experiments.digit_grids import judged
from arra.experiments.digits import WORDS, Digits, Judge, MemoryStore, digits
from arra.experiments.once import once
from arra.generators.trajectory import TrajectoryGenerator
from arra.generators.trajectory_batches import TrajectoryBatches
from arra.objectives.laws import NextVector
from arra.samplers.vectors import VectorSampler
from arra.settings import SamplingConfig
from arra.systems.arflow.recipe import MIXED, PATCH, RESET, SCALES, SIDE, Recipe
from arra.training.loop import train

WEIGHTS = "model.safetensors"
_GRID = SIDE // PATCH


def cells_of(pictures: np.ndarray) -> Tensor:
    """(N, 4, 4, 4) between -1 and 1 of digits (N, 8, 8, 3) uint8: squares of 2 x 2 pixels."""
    values = greys(pictures).float() / ((LEVELS - 1) / 2) - 1.0
    squares = values.unflatten(2, (_GRID, PATCH)).unflatten(1, (_GRID, PATCH))
    return squares.transpose(2, 3).flatten(3)


def digits_of(cells: Tensor) -> np.ndarray:
    """(N, 8, 8, 3) uint8 of cells (N, 4, 4, 4), to the nearest of the 17 greys."""
    squares = cells.unflatten(3, (PATCH, PATCH)).transpose(2, 3)
    values = squares.flatten(3, 4).flatten(1, 2).clamp(-1.0, 1.0)
    return pictures_of(((values + 1.0) * ((LEVELS - 1) / 2)).round().long())


def make_generator(arm: str, recipe: Recipe, seed: int) -> TrajectoryGenerator:
    """An untrained generator of this arm; those of a seed begin alike."""
    options = replace(recipe.options, sequence=1) if arm == RESET else recipe.options
    tokenizer = train_text_tokenizer(WORDS, kind="word")
    return TrajectoryGenerator.from_scratch(
        tokenizer, PATCH**2, (_GRID, _GRID), recipe.size, options, seed=seed
    )


def make_batches(
    arm: str, generator: TrajectoryGenerator, recipe: Recipe, seed: int, known: Digits
) -> TrajectoryBatches:
    """Its training batches: sequences of one digit, or, for the control, of any."""
    texts = [generator.caption_ids(word) for word in known.captions]
    batches = generator.batches(
        MemoryStore(texts, cells_of(known.pictures)), replace(recipe.batch, seed=seed)
    )
    batches.alike = arm != MIXED
    return batches


def draw(
    generator: TrajectoryGenerator, scale: float, count: int, seed: int, batch: int = 500
) -> np.ndarray:
    """(count, 8, 8, 3) uint8 of the ten digits in turn; the same noise for any scale and arm."""
    captions = [WORDS[number % len(WORDS)] for number in range(count)]
    seeds = [seed * 1_000_003 + number for number in range(count)]
    sampler = VectorSampler(SamplingConfig(guidance=scale))
    found = sampler(generator, captions, seeds, batch=batch)
    return digits_of(found.view(count, *generator.codes_shape))


def train_arm(
    recipe: Recipe, judge: Judge, arm: str, seed: int, folder: Path, quiet: bool
) -> dict[str, Any]:
    """Train one model and judge what it draws."""

    def make(target: Path) -> dict[str, Any]:
        known, _ = digits()
        generator = make_generator(arm, recipe, seed)
        batches = make_batches(arm, generator, recipe, seed, known)
        config = replace(recipe.train, seed=seed)
        report = train(generator, [NextVector()], batches, config, target / "training")
        generator.eval()
        state = {name: value.contiguous().clone() for name, value in generator.state_dict().items()}
        save_file(state, str(target / WEIGHTS))
        return {
            "step_seconds": report.median_step_seconds,
            "parameters": report.parameters,
            "loss": float(np.mean([entry["loss"] for entry in report.history[-4:]])),
            "scales": {
                f"{scale:g}": judged(judge, draw(generator, scale, recipe.drawn, seed))
                for scale in SCALES
            },
        }

    return once(folder / f"{arm}-{seed}", [recipe, arm, seed], make)
