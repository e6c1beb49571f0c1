"""Everything about the claim that is a number, and its arms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from arra.experiments.digit_codes import BATCHES, SIDE, training
from arra.experiments.digit_codes import SCALES as PYRAMID
from arra.settings import BatchConfig, SamplingConfig, ScaleSize
from arra.training.config import TrainConfig

SCALES, RASTER, BANDS = "scales", "raster", "bands"
ARMS: dict[str, tuple[tuple[int, int], ...]] = {
    SCALES: PYRAMID.sizes,
    RASTER: ((1, 1),) * SIDE**2,
    BANDS: ((2, SIDE),) * (SIDE // 2),
}
"""The units that one pass draws: next-scale prediction; one pixel after another; and, as control,
as few passes as there are scales, each of which draws two rows at once."""


@dataclass(frozen=True)
class Recipe:
    """Digits of 8 x 8 pixels as codes without loss, and three orders over the same blocks."""

    size: ScaleSize
    batch: BatchConfig
    train: TrainConfig
    crop: int = 0
    """Pixels by which training pictures are moved. Cells of a scale are drawn independently, and
    what decides by how much a digit is moved is decided in none of them alone."""
    judge_crop: int = 1
    """The same of those that the judge learns from."""
    drawn: int = 1000
    """Pictures drawn of each model."""
    guided: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(guidance=2.0, guidance_schedule="linear")
    )
    """The paper's ramp, for pictures that are drawn a second time."""
    timed: int = 8
    """How often drawing is timed."""


def full() -> Recipe:
    """What the result comes from."""
    return Recipe(
        size=ScaleSize(width=64, depth=3, heads=4, feed_forward=256, gate=1e-2, inputs=10.0),
        batch=BATCHES,
        train=training(500),
    )


def tiny() -> Recipe:
    """To see that it runs; nobody should read its numbers."""
    recipe = full()
    return replace(
        recipe,
        size=ScaleSize(width=16, depth=1, heads=2, feed_forward=16),
        batch=replace(recipe.batch, size=8),
        train=replace(recipe.train, steps=3, warmup=1, checkpoint_every=3, log_every=1),
        drawn=60,
        timed=1,
    )


RECIPES = {"full": full, "tiny": tiny}
