"""Digits, or clips of greys, as vectors for generators that draw those: trained in seconds, and
what they draw judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from arra.experiments.digit_codes import Words, store_of
from arra.experiments.digits import WORDS, Digits, MemoryStore, in_turn, seeds_of
from arra.experiments.plotting import canvas, save
from arra.generators.vectors import VectorConfig, VectorGenerator
from arra.metrics.likelihood import held_out_loss
from arra.objectives.base import Objective
from arra.objectives.laws import NextVector
from arra.randomness import seeded
from arra.samplers.vectors import VectorSampler
from arra.settings import BatchConfig, LlamaSize, SamplingConfig, VectorOptions
from arra.training.config import TrainConfig
from arra.training.loop import TrainReport, train


def training(steps: int, learning_rate: float, **others: Any) -> TrainConfig:
    """How claims train models of some hundred thousand parameters, but for what `others` names."""
    config = TrainConfig(
        steps=steps,
        learning_rate=learning_rate,
        weight_decay=0.02,
        warmup=min(50, steps // 4),
        schedule="linear",
        precision="fp32",
        checkpoint_every=steps,
        keep=1,
        log_every=min(50, steps),
    )
    return replace(config, **others)


@dataclass(frozen=True)
class Greys:
    """Greys between 0 and 1 as vectors, a square of pixels each; nothing is lost."""

    patch: int = 1
    """Pixels along a square."""
    mean: float = 0.5
    deviation: float = 0.5
    """Of greys; vectors have them as 0 and 1. Unless given, vectors lie between -1 and 1."""

    def vectors(self, grey: np.ndarray) -> Tensor:
        """(N, h, w, T patch^2) of clips (N, T, H, W): the squares of all frames side by side."""
        clips = (torch.from_numpy(grey).float() - self.mean) / self.deviation
        return F.pixel_unshuffle(clips, self.patch).permute(0, 2, 3, 1).contiguous()

    def clips(self, vectors: Tensor) -> np.ndarray:
        """(N, T, H, W) greys of vectors, drawn ones, too."""
        clips = F.pixel_shuffle(vectors.permute(0, 3, 1, 2), self.patch)
        return (clips * self.deviation + self.mean).clamp(0.0, 1.0).numpy()

    def of(self, pictures: np.ndarray) -> Tensor:
        """Vectors of pictures (N, H, W, 3) uint8."""
        return self.vectors(pictures[:, None, :, :, 0] / 255.0)

    def pictures(self, vectors: Tensor) -> np.ndarray:
        """(N, H, W, 3) uint8 of vectors (N, h, w, patch^2)."""
        grey = np.round(self.clips(vectors)[:, 0] * 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)


G = TypeVar("G", bound=VectorGenerator)


def word_generator(
    kind: type[G],
    shape: tuple[int, int, int],
    size: LlamaSize,
    options: VectorOptions,
    seed: int,
    words: int = len(WORDS),
    frames: int = 1,
) -> G:
    """An untrained generator of vectors of this shape (h, w, C), whose captions are one of so many
    words; its weights are a function of `seed`."""
    rows, columns, channels = shape
    config = VectorConfig(
        (rows, columns), channels, words + 1, longest=1, size=size, options=options, frames=frames
    )
    with seeded(seed):
        return kind(config)


def learn(
    generator: VectorGenerator,
    store: MemoryStore,
    batch: BatchConfig,
    config: TrainConfig,
    seed: int,
    folder: Path,
    objectives: Sequence[Objective] = (NextVector(),),
) -> TrainReport:
    """Train in place, data order and noise by `seed`."""
    batches = generator.batches(store, replace(batch, seed=seed))
    report = train(generator, list(objectives), batches, replace(config, seed=seed), folder)
    generator.eval()
    return report


def loss_on(generator: VectorGenerator, greys: Greys, held_out: Digits, repeats: int = 1) -> float:
    """The loss of held-out digits with their words, a mean over positions and over `repeats` times
    and noises of each, which are the same for all generators that draw theirs alike."""
    store = store_of(held_out, greys.of(held_out.pictures))
    batches = list(generator.batches(store, BatchConfig(1, drop_caption=0.0)).in_order(200))
    found = [
        held_out_loss(
            generator,
            [replace(batch, seed=torch.tensor(1000 * n + i)) for i, batch in enumerate(batches)],
        ).values.mean()
        for n in range(repeats)
    ]
    return float(np.mean(found))


def draw(
    generator: VectorGenerator,
    captions: Sequence[str],
    seed: int,
    sampling: SamplingConfig | None = None,
    batch: int = 320,
) -> Tensor:
    """Vectors (N, h, w, C) of captions, which are words where the generator has no tokenizer; the
    same noise for any setting."""
    stepper = generator if generator.tokenizer is not None else Words(generator)
    sampler = VectorSampler(sampling or SamplingConfig(1.0))
    drawn = sampler(stepper, captions, seeds_of(len(captions), seed), batch=batch)
    return drawn.view(len(captions), *generator.codes_shape)


def draw_digits(
    generator: VectorGenerator,
    greys: Greys,
    count: int,
    seed: int,
    sampling: SamplingConfig | None = None,
) -> np.ndarray:
    """(count, 8, 8, 3) uint8 of the ten digits in turn."""
    return greys.pictures(draw(generator, in_turn(count), seed, sampling))


def sheet(
    rows: Sequence[tuple[str, np.ndarray]], path: str | Path, heads: Sequence[str] = ()
) -> None:
    """Write rows of pictures, as many in each, with their names, as PNG; `heads` stand above the
    columns."""
    across = len(rows[0][1])
    figure, axes = canvas(7.2, 0.42 * len(rows), (len(rows), across))
    for number, (name, pictures) in enumerate(rows):
        line = axes[number * across : (number + 1) * across]
        for place, picture in zip(line, pictures, strict=True):
            place.imshow(picture, interpolation="nearest")
            place.set_xticks([])
            place.set_yticks([])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
    for place, head in zip(axes, heads, strict=False):
        place.set_title(head, fontsize=7)
    save(figure, path)
