"""The work of the claim: one model trained on digits, and judged by what it draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from arra.data.tokenizer import train_text_tokenizer
from arra.experiments.digit_vectors import Greys, draw_digits
from arra.experiments.digits import WORDS, Digits, Judge, MemoryStore, digits, judged
from arra.experiments.once import once
from arra.generators.trajectory import TrajectoryGenerator
from arra.generators.trajectory_batches import TrajectoryBatches
from arra.objectives.laws import NextVector
from arra.settings import SamplingConfig
from arra.systems.arflow.recipe import MIXED, PATCH, RESET, SCALES, SIDE, Recipe
from arra.training.loop import train

WEIGHTS = "model.safetensors"
CELLS = Greys(PATCH)
_GRID = SIDE // PATCH


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
        MemoryStore(texts, CELLS.of(known.pictures)), replace(recipe.batch, seed=seed)
    )
    batches.alike = arm != MIXED
    return batches


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
                f"{scale:g}": judged(
                    judge,
                    draw_digits(
                        generator, CELLS, recipe.drawn, seed, SamplingConfig(guidance=scale)
                    ),
                )
                for scale in SCALES
            },
        }

    return once(folder / f"{arm}-{seed}", [recipe, arm, seed], make)
