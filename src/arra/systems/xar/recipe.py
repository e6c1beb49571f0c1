"""Everything about the claim that is a number, and its arms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from arra.experiments.digit_vectors import training
from arra.settings import BatchConfig, LlamaSize, VectorOptions
from arra.training.config import TrainConfig

BATCHES = BatchConfig(size=32, drop_caption=0.0, multiple=1)
NOISY, CLEAN, LONG = "noisy", "clean", "clean-long"
"""Noisy context; clean context in a sequence twice as long, for as many positions (half of the
steps); and for as many steps."""
ARMS = (NOISY, CLEAN, LONG)
DEVIATIONS = (0.0, 0.15, 0.3)
"""Of the noise that is added to a cell that was drawn, before later ones read it; pixels are
between -1 and 1."""
SIDE = 8


@dataclass(frozen=True)
class Recipe:
    """Digits of 8 x 8 pixels in cells of 2 x 2, one vector each: sixteen entities."""

    patch: int = 2
    """Pixels along a vector's square."""
    size: LlamaSize = field(
        default_factory=lambda: LlamaSize(
            width=64, depth=3, heads=4, feed_forward=176, rope_theta=100.0
        )
    )
    options: VectorOptions = field(
        default_factory=lambda: VectorOptions(steps=12, logit=True, entity="cell", side=1)
    )
    batch: BatchConfig = BATCHES
    train: TrainConfig = field(default_factory=lambda: training(1200, 3e-3))
    drawn: int = 640
    """Pictures drawn of each model at each deviation."""

    def of(self, arm: str) -> Recipe:
        """That of an arm."""
        if arm == NOISY:
            return self
        steps = self.train.steps // (2 if arm == CLEAN else 1)
        return replace(
            self,
            options=replace(self.options, context="clean"),
            train=replace(self.train, steps=steps, checkpoint_every=steps),
        )


def tiny() -> Recipe:
    """To see that it runs; nobody should read its numbers."""
    return replace(
        Recipe(),
        size=LlamaSize(width=16, depth=1, heads=2, feed_forward=16),
        options=VectorOptions(steps=2, logit=True, entity="cell", side=2),
        batch=replace(BATCHES, size=8),
        train=training(4, 3e-3),
        drawn=40,
    )


RECIPES = {"full": Recipe, "tiny": tiny}
