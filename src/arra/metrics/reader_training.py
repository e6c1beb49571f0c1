"""Training a scene reader in well under a minute, on pictures worse than the real ones."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arra.data.scenes import DigitScenes, Scene, SceneConfig
from arra.errors import InputError
from arra.metrics.reader import (
    COLOURS,
    GROUND_NAMES,
    ReaderConfig,
    ReaderOutput,
    SceneReader,
)
from arra.pixels import to_share
from arra.progress import track

MOST = 3  # digits in a scene, at most


@dataclass(frozen=True)
class ReaderTraining:
    """How a reader is trained."""

    scenes: int = 5000
    """Size of the pool of training scenes, drawn once."""
    batch: int = 64
    """Pictures a step."""
    learning_rate: float = 6e-3
    """Peak of the one-cycle schedule of AdamW."""
    decay: float = 0.05
    """Weight decay."""
    worsen: float = 0.5
    """Share of training pictures that are blurred, noisy or off in brightness."""


@dataclass(frozen=True)
class ReaderReport:
    """What the training of a reader took."""

    steps: int
    seconds: float
    """Wall clock of the whole training, drawing the scenes included."""
    pictures: int
    """Pictures seen, repetitions counted."""
    losses: dict[str, float] = field(default_factory=dict)
    """Each part of the loss, averaged over the last tenth of the steps."""


@dataclass(frozen=True)
class _Truth:
    """Answers for N scenes of up to three digits; rows beyond a scene's digits have value -1."""

    centre: Tensor  # (N, 3, 2) row and column in pixels
    digit: Tensor  # (N, 3) int64
    colour: Tensor  # (N, 3) int64
    ground: Tensor  # (N,) int64

    def take(self, index: Tensor) -> _Truth:
        return _Truth(self.centre[index], self.digit[index], self.colour[index], self.ground[index])


def _truth(scenes: list[Scene], side: int) -> _Truth:
    centre = torch.zeros(len(scenes), MOST, 2)
    digit = torch.full((len(scenes), MOST), -1)
    colour = torch.full((len(scenes), MOST), -1)
    for n, scene in enumerate(scenes):
        for k, d in enumerate(scene.digits):
            centre[n, k] = torch.tensor([d.row + side / 2, d.column + side / 2])
            digit[n, k], colour[n, k] = d.value, COLOURS.index(d.colour)
    ground = torch.tensor([GROUND_NAMES.index(s.ground) for s in scenes])
    return _Truth(centre, digit, colour, ground)


def _uniform(shape: tuple[int, ...], low: float, high: float, rng: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=rng) * (high - low) + low


def move(pixels: Tensor, centre: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Turn, shear, scale and shift each picture a little; centres (B, K, 2) go along.

    Twelve hundred scans are few: without this the reader learns them by heart. Shifts reach two
    pixels because a generator need not respect the grid on which scenes are placed.
    """
    b, side = len(pixels), pixels.shape[-1]
    angle = _uniform((b,), -0.16, 0.16, rng)
    shear = _uniform((b,), -0.15, 0.15, rng)
    scale = _uniform((b, 2), 0.92, 1.09, rng)
    shift = _uniform((b, 2), -2.0, 2.0, rng) * 2 / side
    shift = torch.where(torch.rand(b, 1, generator=rng) < 0.25, torch.zeros(()), shift)
    cos, sin = angle.cos(), angle.sin()
    rotate = torch.stack([cos, sin, -sin, cos], dim=1).view(b, 2, 2)
    slant = torch.eye(2).repeat(b, 1, 1)
    slant[:, 0, 1] = shear
    matrix = rotate @ slant @ torch.diag_embed(scale)  # output (x, y) -> input (x, y)
    theta = torch.cat([matrix, shift[:, :, None]], dim=2)
    grid = F.affine_grid(theta, [b, 3, side, side], align_corners=False)
    moved = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    source = centre.flip(2) * 2 / side - 1 - shift[:, None]
    target = torch.linalg.solve(matrix, source.transpose(1, 2)).transpose(1, 2)
    return moved, (target.flip(2) + 1) * side / 2


def worsen(pixels: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Make a `share` of the pictures look as if a codec or a generator had made them."""
    b = len(pixels)

    def some() -> Tensor:
        return (torch.rand(b, 1, 1, 1, generator=rng) < share).float()

    def amount(low: float, high: float) -> Tensor:
        return _uniform((b, 1, 1, 1), low, high, rng) * some()

    soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    pixels = torch.lerp(pixels, soft, amount(0.0, 0.7))
    grain = torch.randn(pixels.shape, generator=rng)
    coarse = torch.randn(b, 3, pixels.shape[2] // 4 + 1, pixels.shape[3] // 4 + 1, generator=rng)
    stains = F.interpolate(coarse, size=pixels.shape[2:], mode="bilinear", align_corners=False)
    pixels = pixels + amount(0.0, 0.06) * grain + amount(0.0, 0.05) * stains
    contrast, brightness = amount(-0.12, 0.12), amount(-0.05, 0.05)
    return ((pixels - 0.3) * (1 + contrast) + 0.3 + brightness).clamp(0, 1)


def reader_losses(
    output: ReaderOutput, truth: _Truth, stride: int, digit_side: int
) -> dict[str, Tensor]:
    """The parts of the loss, each a scalar (Zhou et al. 2019, equations 1 and 2)."""
    side = output.objectness.shape[1]
    real = truth.digit >= 0
    centre = truth.centre / stride  # in cells
    cell = centre.floor().clamp(0, side - 1).long()
    middle = torch.arange(side) + 0.5
    down = (middle[None, None, :, None] - centre[:, :, 0, None, None]) ** 2
    across = (middle[None, None, None, :] - centre[:, :, 1, None, None]) ** 2
    sigma = digit_side / (6 * stride)
    glow = torch.exp(-(down + across) / (2 * sigma**2)) * real[:, :, None, None]
    sample, slot = real.nonzero(as_tuple=True)
    i, j = cell[sample, slot].unbind(1)
    positive = torch.zeros_like(output.objectness)
    positive[sample, i, j] = 1.0
    logit = output.objectness
    chance = logit.sigmoid()
    penalty = (1 - glow.amax(dim=1)) ** 4 * chance**2 * F.softplus(logit)
    reward = (1 - chance) ** 2 * F.softplus(-logit)
    objectness = (positive * reward + (1 - positive) * penalty).sum() / len(sample)
    offset = output.offset[sample, :, i, j] - (centre[sample, slot] - cell[sample, slot] - 0.5)
    digit_logits = output.digit[sample, :, i, j]
    colour_logits = output.colour[sample, :, i, j]
    return {
        "objectness": objectness,
        "offset": offset.abs().mean(),
        "digit": F.cross_entropy(digit_logits, truth.digit[sample, slot], label_smoothing=0.05),
        "colour": F.cross_entropy(colour_logits, truth.colour[sample, slot]),
        "ground": F.cross_entropy(output.ground, truth.ground),
    }


def train_reader(
    scene_config: SceneConfig | None = None,
    *,
    generator: torch.Generator,
    seconds: float | None = None,
    steps: int | None = None,
    reader_config: ReaderConfig | None = None,
    training: ReaderTraining | None = None,
    quiet: bool = False,
) -> tuple[SceneReader, ReaderReport]:
    """A reader trained on scenes of the training split, and what it took.

    Give either `steps`, or `seconds` of wall clock for everything, drawing the scenes included (the
    number of steps is then set by the speed of the first ones, and so differs between runs).
    """
    start = time.monotonic()
    if (seconds is None) == (steps is None):
        raise InputError("train_reader: give either steps or seconds")
    if reader_config is not None and scene_config not in (None, reader_config.scene):
        raise InputError("train_reader: scene_config and reader_config.scene differ")
    training = training or ReaderTraining()
    config = reader_config or ReaderConfig(scene=scene_config or SceneConfig())
    seed = int(torch.randint(2**31, (), generator=generator))
    # All pairs of digit and ink: a judge must know also those that the generator never saw.
    pool = DigitScenes(config.scene, "train", seed=seed, combinations="all")
    pictures, scenes = pool.pictures(0, training.scenes)
    pixels, truth = to_share(pictures), _truth(scenes, config.scene.digit)
    reader = SceneReader.seeded(config, seed)
    reader.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(
        reader.parameters(), lr=training.learning_rate, weight_decay=training.decay
    )
    total = float(steps or 0)
    deadline = start + seconds if seconds is not None else None
    begun = time.monotonic()
    step, recent = 0, []
    order = np.empty(0, dtype=np.int64)
    progress = 0.0
    with track("reader", 1000, quiet) as task:
        while progress < 1.0:
            if len(order) < training.batch:
                order = torch.randperm(len(pixels), generator=generator).numpy()
            index, order = torch.from_numpy(order[: training.batch]), order[training.batch :]
            for group in optimiser.param_groups:
                group["lr"] = training.learning_rate * _one_cycle(progress)
            answers = truth.take(index)
            moved, centre = move(pixels[index], answers.centre, generator)
            answers = _Truth(centre, answers.digit, answers.colour, answers.ground)
            inputs = worsen(moved, training.worsen, generator)
            output = reader(inputs.contiguous(memory_format=torch.channels_last))
            losses = reader_losses(output, answers, config.stride, config.scene.digit)
            optimiser.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            optimiser.step()
            step += 1
            recent.append({name: float(value.detach()) for name, value in losses.items()})
            before = progress
            if deadline is None:
                progress = step / total
            else:
                progress = (time.monotonic() - begun) / max(deadline - begun, 1e-6)
            task.advance(int(1000 * min(progress, 1)) - int(1000 * before))
    last = recent[-max(1, step // 10) :]
    averages = {name: math.fsum(r[name] for r in last) / len(last) for name in last[0]}
    report = ReaderReport(step, time.monotonic() - start, step * training.batch, averages)
    # Back to the layout of a loaded reader: layouts round differently, readings should not.
    reader.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return reader.eval(), report


def _one_cycle(progress: float, warm: float = 0.15) -> float:
    """Share of the peak learning rate: up on a line, down on a cosine to a hundredth."""
    if progress < warm:
        return 0.05 + 0.95 * progress / warm
    fall = (progress - warm) / (1 - warm)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(fall, 1.0)))
