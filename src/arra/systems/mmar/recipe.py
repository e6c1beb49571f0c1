"""Everything about the claim that is a number."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from arra.experiments.digit_vectors import training
from arra.settings import BatchConfig, LlamaSize, VectorOptions
from arra.systems.mmar.numerics import Numerics
from arra.training.config import TrainConfig

VECTORS, CODES, NOISED = "vectors", "codes", "noised"
ARMS = (VECTORS, CODES, NOISED)
"""Vectors with a diffusion head; codes with a softmax; and, as Transfusion does (arXiv 2408.11039),
the whole picture noised and diffusion run through the language model."""


@dataclass(frozen=True)
class Recipe:
    """Digits of 16 patches, captions of two words, a small language model."""

    size: LlamaSize
    options: VectorOptions
    batch: BatchConfig
    train: TrainConfig
    temperature: float = 1e-3
    """Of the lookup of codes, in squared distances: practically none."""
    drawn: int = 700
    """Digits drawn of each model, without guidance."""
    numerics: Numerics = field(default_factory=Numerics)


def full() -> Recipe:
    """What the result comes from."""
    steps = 1200
    return Recipe(
        size=LlamaSize(
            width=64, depth=3, heads=4, feed_forward=176, positions=64, rope_theta=100.0
        ),
        options=VectorOptions(
            objective="v", steps=25, inner=96, repeats=2, rounds=8, widened=2 * steps // 3
        ),
        batch=BatchConfig(size=32, drop_caption=0.1, multiple=1),
        train=training(steps, 3e-3, weight_decay=0.05),
    )


def tiny() -> Recipe:
    """To see that it runs; nobody should read its numbers."""
    recipe = full()
    return replace(
        recipe,
        size=replace(recipe.size, width=16, depth=1, heads=2, feed_forward=16),
        options=replace(recipe.options, steps=2, inner=16, inner_depth=1, repeats=1, widened=2),
        batch=replace(recipe.batch, size=8),
        train=replace(recipe.train, steps=3, warmup=1, checkpoint_every=3, log_every=1),
        drawn=60,
        numerics=Numerics(points=200, steps=10),
    )


RECIPES = {"full": full, "tiny": tiny}
