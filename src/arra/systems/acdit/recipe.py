"""Everything about the claim that is a number, and its arms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from arra.experiments.digit_vectors import training
from arra.settings import BatchConfig, LlamaSize, VectorOptions
from arra.training.config import TrainConfig

BATCHES = BatchConfig(size=32, drop_caption=0.0, multiple=1)
CLEAN, NOISED, WHOLE = "clean", "noised", "whole"
"""A clean past; a past with noise of its own, of which the network is told how much, and in
sampling none; and all frames at once, a plain diffusion transformer."""
ARMS = (CLEAN, NOISED, WHOLE)


@dataclass(frozen=True)
class Recipe:
    """Clips of a digit that moves on a torus, by the same step from frame to frame: one of eight,
    which the caption names."""

    frames: int = 4
    patch: int = 6
    """Pixels along a vector's square: a frame is one vector, so that steps are cheap."""
    clips: int = 20_000
    """To train on."""
    size: LlamaSize = field(
        default_factory=lambda: LlamaSize(
            width=96, depth=3, heads=4, feed_forward=384, rope_theta=100.0
        )
    )
    options: VectorOptions = field(default_factory=lambda: VectorOptions(steps=12))
    batch: BatchConfig = BATCHES
    train: TrainConfig = field(default_factory=lambda: training(2000, 3e-3))
    drawn: int = 640
    """Clips drawn of each model."""


def tiny() -> Recipe:
    """To see that it runs; nobody should read its numbers."""
    return replace(
        Recipe(),
        clips=100,
        size=LlamaSize(width=16, depth=1, heads=2, feed_forward=16),
        options=VectorOptions(steps=2),
        batch=replace(BATCHES, size=8),
        train=training(4, 3e-3),
        drawn=40,
    )


RECIPES = {"full": Recipe, "tiny": tiny}
