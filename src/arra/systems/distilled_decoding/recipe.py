"""Everything about the claim, and about the pictures of the page, that is a number."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from arra.experiments.digit_codes import training as scale_training
from arra.generators.students import StudentOptions
from arra.settings import BatchConfig, LlamaSize, ScaleSize
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


GRID, SCALES = "grid", "scales"
KINDS = (GRID, SCALES)
"""Teachers of the pictures: square after square, and next-scale."""


@dataclass(frozen=True)
class Task:
    """How a teacher of digits and its student are trained."""

    teacher: TrainConfig
    training: TrainConfig
    """Of the student."""
    student: StudentOptions
    batch: BatchConfig
    helped: tuple[int, int]
    """Between two steps: the first unit that the teacher draws, and the first that it does not."""


def _grid() -> Task:
    starts = StudentOptions((0, 5, 9, 13))
    return Task(training(1000), training(1500), starts, BATCHES, helped=(2, 9))


def _scales() -> Task:
    starts = StudentOptions((0, 2, 3, 4))
    batch = replace(BATCHES, size=32)
    return Task(scale_training(500), training(1000), starts, batch, helped=(1, 3))


@dataclass(frozen=True)
class DigitRecipe:
    """Handwritten digits as 16 squares in turn and as pixels in scales, and students of both."""

    codes: int = 32
    """Of squares of 2 x 2 pixels."""
    sides: tuple[int, ...] = (1, 2, 3, 5, 8)
    """Of the scales."""
    grid: LlamaSize = field(
        default_factory=lambda: LlamaSize(
            width=64, depth=4, heads=4, feed_forward=192, rope_theta=100.0
        )
    )
    scales: ScaleSize = field(
        default_factory=lambda: ScaleSize(
            width=64, depth=3, heads=4, feed_forward=256, gate=1e-2, inputs=10.0
        )
    )
    grid_task: Task = field(default_factory=_grid)
    scale_task: Task = field(default_factory=_scales)
    steps: tuple[int, ...] = (1, 2, 4)
    """Of the students."""
    pairs: int = 20_000
    flow_steps: int = 60
    """Of Euler's method for each code."""
    drawn: int = 2_000
    timed: int = 9
    """How often drawing is timed."""

    @property
    def tasks(self) -> dict[str, Task]:
        """By kind."""
        return {GRID: self.grid_task, SCALES: self.scale_task}


def tiny_digits() -> DigitRecipe:
    """To see that it runs."""

    def short(task: Task) -> Task:
        batch = replace(BATCHES, size=8)
        return replace(task, teacher=training(2), training=training(2), batch=batch)

    return DigitRecipe(
        codes=8,
        grid=tiny().size,
        scales=ScaleSize(width=16, depth=1, heads=2, feed_forward=16),
        grid_task=short(_grid()),
        scale_task=short(_scales()),
        pairs=40,
        flow_steps=10,
        drawn=40,
        timed=1,
    )
