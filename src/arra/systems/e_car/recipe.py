"""Everything about the claim that is a number, and its arms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from arra.experiments.digit_maps import BATCHES, training
from arra.settings import BatchConfig, LlamaSize, VectorOptions
from arra.training.config import TrainConfig

STAGES, ONE = "stages", "one"
"""Stages of growing resolution; and one stage at the whole resolution, the baseline."""
ARMS = (STAGES, ONE)
CUT, NAIVE = "cut", "naive"
"""Drawn with the models of others: the one stage in as many steps as cost no more than all stages;
and stages joined without the correction."""


@dataclass(frozen=True)
class Recipe:
    """Digits of 8 x 8 pixels, drawn in stages of 2, 4 and 8."""

    size: LlamaSize = field(
        default_factory=lambda: LlamaSize(
            width=32, depth=3, heads=2, feed_forward=85, rope_theta=100.0
        )
    )
    options: VectorOptions = field(
        default_factory=lambda: VectorOptions(steps=8, stages=3, inner=32, inner_depth=2)
    )
    """The head; stages, and steps of each. The baseline takes as many steps in one."""
    batch: BatchConfig = BATCHES
    train: TrainConfig = field(default_factory=lambda: training(300))
    """Of stages; the baseline trains for more steps, so that both cost the same."""
    drawn: int = 500
    """Pictures of each model, without guidance."""
    crop: int = 1
    """Pixels by which the judge's digits are moved."""


def tiny() -> Recipe:
    """To see that it runs; nobody should read its numbers."""
    recipe = Recipe()
    return replace(
        recipe,
        size=replace(recipe.size, width=16, depth=1, heads=2, feed_forward=16),
        options=replace(recipe.options, steps=2, inner=16, inner_depth=1),
        batch=replace(recipe.batch, size=8),
        train=replace(recipe.train, steps=3, warmup=1, checkpoint_every=3, log_every=1),
        drawn=60,
    )


RECIPES = {"full": Recipe, "tiny": tiny}
