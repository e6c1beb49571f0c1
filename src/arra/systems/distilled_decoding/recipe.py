"""Everything about the claim, and about the pictures of the page, that is a number."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from arra.generators.students import StudentOptions
from arra.settings import BatchConfig, LlamaSize
from arra.training.config import TrainConfig

DISTILLED, SHUFFLED = "distilled", "shuffled noise"
"""Trained on the teacher's pairs; and on the same, of which each has the noise of another."""
ARMS = (DISTILLED, SHUFFLED)
BATCHES = BatchConfig(size=128, drop_caption=0.0, multiple=1)


def training(steps: int) -> TrainConfig:
    """How students of a few hundred thousand parameters are trained."""
    return TrainConfig(
        steps=steps,
        learning_rate=3e-3,
        weight_decay=0.01,
        warmup=min(50, steps),
        schedule="linear",
        precision="fp32",
        checkpoint_every=steps,
        keep=1,
        log_every=50,
    )


@dataclass(frozen=True)
class Recipe:
    """Grids of 4 x 4 codes by a rule, and students of it."""

    pairs: int = 24_000
    """To train on."""
    drawn: int = 6_000
    """Grids drawn by each, from noise that training has not seen."""
    flow_steps: int = 60
    """Of Euler's method for each code."""
    size: LlamaSize = field(
        default_factory=lambda: LlamaSize(
            width=64, depth=4, heads=4, feed_forward=128, rope_theta=100.0
        )
    )
    starts: tuple[int, ...] = (0, 8)
    """Cells that are known at the first and second step."""
    batch: BatchConfig = BATCHES
    train: TrainConfig = field(default_factory=lambda: training(800))


def tiny() -> Recipe:
    """To see that it runs; nobody should read its numbers."""
    return replace(
        Recipe(),
        pairs=32,
        drawn=40,
        flow_steps=10,
        size=LlamaSize(width=16, depth=1, heads=2, feed_forward=16),
        batch=replace(BATCHES, size=8),
        train=training(2),
    )


RECIPES = {"full": Recipe, "tiny": tiny}


@dataclass(frozen=True)
class DigitRecipe:
    """Handwritten digits as 4 x 4 codes, a teacher of them and its student."""

    codes: int = 32
    size: LlamaSize = field(
        default_factory=lambda: LlamaSize(
            width=96, depth=4, heads=4, feed_forward=256, rope_theta=100.0
        )
    )
    batch: BatchConfig = BATCHES
    teacher: TrainConfig = field(default_factory=lambda: training(1500))
    student: TrainConfig = field(default_factory=lambda: training(1500))
    options: StudentOptions = field(default_factory=lambda: StudentOptions((0, 5), 2))
    pairs: int = 20_000
    drawn: int = 2_000


def tiny_digits() -> DigitRecipe:
    """To see that it runs."""
    return replace(
        DigitRecipe(),
        codes=8,
        size=tiny().size,
        batch=tiny().batch,
        teacher=training(2),
        student=training(2),
        pairs=20,
        drawn=40,
    )
