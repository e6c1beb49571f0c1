"""Everything about the claim that is a number, and its arms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from arra.experiments.digit_codes import BATCHES, SIDE, training
from arra.orders.schedules import RandomSchedules
from arra.settings import BatchConfig, ScaleSize
from arra.training.config import TrainConfig

RESIDUAL, DIRECT, FIXED, FLEXIBLE = "residual", "direct", "fixed", "flexible"
"""Residual scales, as in VAR; scales that show the picture, all else equal; the same with the table
of places that fits any schedule (the control); and with schedules drawn at random in training."""
ARMS = (RESIDUAL, DIRECT, FIXED, FLEXIBLE)
DEFAULT = (1, 2, 4, SIDE)
"""The schedule of all arms but the flexible one, and that at which all are compared."""
UNSEEN: tuple[tuple[int, ...], ...] = (
    (1, 3, 8),
    (1, 3, 5, 8),
    (1, 2, 3, 4, 6, 8),
    (1, 2, 3, 4, 5, 6, 7, 8),
)
"""Schedules that no training has: random ones have five scales."""


def named(sides: tuple[int, ...]) -> str:
    """A schedule in a table."""
    return "-".join(map(str, sides))


@dataclass(frozen=True)
class Recipe:
    """Digits of 8 x 8 pixels as codes without loss, over one network."""

    size: ScaleSize
    batch: BatchConfig
    train: TrainConfig
    schedules: RandomSchedules = field(
        default_factory=lambda: RandomSchedules(
            DEFAULT,
            first=(1,),
            groups=((2, SIDE - 1, 3),),
            omit=(),
            most_cells=SIDE**3,
            keep_last=True,
        )
    )
    """The law of training's schedules: 1, three of 2 to 7, 8, and now and then the default. The
    paper's own law, of 16 scales, would nearly always have 1, 2 and two others here."""
    table: int = 2 * SIDE
    """Side of the table of places."""
    crop: int = 0
    """Pixels by which training pictures are moved. Cells of a scale are drawn independently, and
    what decides by how much a digit is moved is decided in none of them alone."""
    judge_crop: int = 1
    """The same of those that the judge learns from: of pictures that are never moved some of its
    features hardly vary, and a distance in units of their spread would be theirs alone."""
    drawn: int = 1000
    """Pictures drawn of each model in each schedule."""


def full() -> Recipe:
    """What the result comes from."""
    return Recipe(
        size=ScaleSize(width=64, depth=3, heads=4, feed_forward=256, gate=1.0, inputs=10.0),
        batch=BATCHES,
        train=training(300),
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
    )


RECIPES = {"full": full, "tiny": tiny}
