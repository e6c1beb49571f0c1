"""Everything about the claim that is a number."""

from __future__ import annotations

from dataclasses import dataclass, replace

from arra.experiments.digit_vectors import training
from arra.settings import BatchConfig, LlamaSize, VectorOptions
from arra.training.config import TrainConfig

BASE = "base"
"""The model of codes that every arm begins with."""
CODES, DIFFUSION, MEAN = "codes", "diffusion", "mean"
ARMS = (DIFFUSION, CODES, MEAN)
"""Converted with a diffusion head; trained on with its codes; converted with squared errors."""


def tuning(steps: int, learning_rate: float = 2e-3) -> TrainConfig:
    """How all models are trained."""
    return training(steps, learning_rate, weight_decay=0.05, warmup=min(50, steps))


@dataclass(frozen=True)
class Recipe:
    """Digits of 16 patches, captions of two words, a small causal language model."""

    size: LlamaSize
    options: VectorOptions
    batch: BatchConfig
    base: TrainConfig
    """Of the model of codes, in both directions."""
    tuned: TrainConfig
    """Of codebook, embeddings of codes and head alone."""
    whole: TrainConfig
    """Of everything after that; the model of codes trains on for both."""
    certainty: float = 0.7
    """Half of the vectors give their nearest code at least this share when they are read."""
    scale: float = 1.0
    """Of the vectors for the head; the digits' have unit spread already (Orthus' 0.1 is for its
    codec's)."""
    drawn: int = 700
    """Digits drawn of each model, without guidance."""


def full() -> Recipe:
    """What the result comes from."""
    return Recipe(
        size=LlamaSize(
            width=64, depth=3, heads=4, feed_forward=176, positions=64, rope_theta=100.0
        ),
        options=VectorOptions(
            objective="v", noise_schedule="zero-terminal", steps=25, inner=96, repeats=2
        ),
        batch=BatchConfig(size=32, drop_caption=0.0, multiple=1),
        base=tuning(700, 4e-3),
        tuned=tuning(100),
        whole=tuning(400),
    )


def tiny() -> Recipe:
    """To see that it runs; nobody should read its numbers."""
    recipe = full()
    return replace(
        recipe,
        size=replace(recipe.size, width=16, depth=1, heads=2, feed_forward=16),
        options=replace(recipe.options, steps=2, inner=16, inner_depth=1, repeats=1),
        batch=replace(recipe.batch, size=8),
        base=tuning(3),
        tuned=tuning(2),
        whole=tuning(2),
        drawn=60,
    )


RECIPES = {"full": full, "tiny": tiny}
