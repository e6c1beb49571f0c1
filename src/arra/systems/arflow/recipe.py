"""Everything about the claim that is a number, and its arms."""

from __future__ import annotations

from dataclasses import dataclass, replace

from arra.experiments.digit_vectors import training
from arra.settings import BatchConfig, LlamaSize, VectorOptions
from arra.training.config import TrainConfig

MEMORY, RESET, MIXED = "memory", "reset", "mixed"
"""ARFlow; the same network, whose memory is emptied before every picture (the baseline: a flow with
this mixer); and ARFlow trained in sequences of any digits, each with its own word (the control)."""
ARMS = (MEMORY, RESET, MIXED)
SIDE, PATCH = 8, 2
"""Pixels of a digit, and of the squares that are its cells."""
SCALES = (1.0, 1.5)
"""Of guidance."""


@dataclass(frozen=True)
class Recipe:
    """Digits as cells of 2 x 2 pixels between -1 and 1, over one network."""

    size: LlamaSize
    options: VectorOptions
    batch: BatchConfig
    train: TrainConfig
    judge_crop: int = 1
    """Pixels by which those digits are moved that the judge learns from."""
    drawn: int = 640
    """Pictures drawn of each model at each scale."""


def full() -> Recipe:
    """What the result comes from. A batch has as many pictures in all arms.

    The gates were chosen with seed 100: with the released root of 16, which is for pictures of 256
    cells, and with reading that is alike for all cells, this memory did worse.
    """
    return Recipe(
        size=LlamaSize(width=64, depth=3, heads=4, feed_forward=176),
        options=VectorOptions(
            objective="flow",
            steps=25,
            stochastic=True,
            sequence=5,
            read_decay="raster",
            gate_root=1.0,
        ),
        batch=BatchConfig(size=100, drop_caption=0.1, multiple=1),
        train=training(400, 2e-3),
    )


def tiny() -> Recipe:
    """To see that it runs; nobody should read its numbers."""
    recipe = full()
    return replace(
        recipe,
        size=LlamaSize(width=16, depth=1, heads=2, feed_forward=16),
        options=replace(recipe.options, steps=2),
        batch=replace(recipe.batch, size=10),
        train=replace(recipe.train, steps=3, warmup=1, checkpoint_every=3, log_every=1),
        drawn=60,
    )


RECIPES = {"full": full, "tiny": tiny}
