"""Everything about the claim that is a number, and its arms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from arra.experiments.digit_vectors import training
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
            width=64, depth=3, heads=4, feed_forward=176, rope_theta=100.0
        )
    )
    options: VectorOptions = field(
        default_factory=lambda: VectorOptions(steps=8, stages=3, inner=64, inner_depth=2, blur=0.5)
    )
    """The head; stages, and steps of each. The baseline takes as many steps in one."""
    batch: BatchConfig = field(
        default_factory=lambda: BatchConfig(size=32, drop_caption=0.1, multiple=1)
    )
    train: TrainConfig = field(
        default_factory=lambda: training(450, 4e-3, betas=(0.9, 0.95), clip=3.0)
    )
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
