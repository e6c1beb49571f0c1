"""Digits as grids of pixels in [-1, 1] for generators that draw maps of vectors: trained in
seconds, and what they draw judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arra.experiments.digit_codes import store_of, word_ids
from arra.experiments.digits import WORDS, Digits, Judge
from arra.experiments.plotting import canvas, save
from arra.generators.map_vectors import MapVectorGenerator
from arra.generators.vectors import VectorConfig
from arra.metrics.likelihood import held_out_loss
from arra.objectives.laws import NextVector
from arra.randomness import seeded
from arra.samplers.vectors import VectorSampler
from arra.settings import BatchConfig, LlamaSize, SamplingConfig, VectorOptions
from arra.training.config import TrainConfig
from arra.training.loop import train

BATCHES = BatchConfig(size=16, drop_caption=0.1, multiple=1)


def training(steps: int) -> TrainConfig:
    """How claims train them."""
    return TrainConfig(
        steps=steps,
        learning_rate=4e-3,
        weight_decay=0.02,
        betas=(0.9, 0.95),
        warmup=min(50, steps // 4),
        schedule="linear",
        clip=3.0,
        precision="fp32",
        checkpoint_every=steps,
        keep=1,
        log_every=50,
    )


def vectors(pictures: np.ndarray) -> Tensor:
    """(N, h, w, 1) in [-1, 1] of digits (N, h, w, 3) uint8."""
    return torch.from_numpy(pictures[..., :1]).float() / 127.5 - 1.0


def pictures_of(drawn: Tensor) -> np.ndarray:
    """(N, h, w, 3) uint8 of vectors (N, h, w, 1)."""
    grey = ((drawn.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
    return grey.expand(*grey.shape[:3], 3).contiguous().numpy()


class Words:
    """A generator whose captions are the ten words (it needs no tokenizer for them)."""

    def __init__(self, generator: MapVectorGenerator):
        self.generator, self._ids = generator, word_ids()

    def prompt_ids(self, caption: str | None) -> list[int]:
        """The id of a word; None is the null condition."""
        return [] if caption is None else self._ids[caption]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.generator, name)


def digit_generator(
    kind: type[MapVectorGenerator], side: int, size: LlamaSize, options: VectorOptions, seed: int
) -> MapVectorGenerator:
    """An untrained generator of digits of side x side pixels, its weights a function of `seed`."""
    text = len(WORDS) + 1
    config = VectorConfig((side, side), 1, text, longest=1, size=size, options=options)
    with seeded(seed):
        return kind(config)


def learn(
    generator: MapVectorGenerator,
    known: Digits,
    batch: BatchConfig,
    config: TrainConfig,
    seed: int,
    folder: Path,
) -> float:
    """Train in place, data order and noise by `seed`; median seconds of a step."""
    store = store_of(known, vectors(known.pictures))
    batches = generator.batches(store, replace(batch, seed=seed))
    report = train(generator, [NextVector()], batches, replace(config, seed=seed), folder)
    generator.eval()
    return report.median_step_seconds


def loss_on(generator: MapVectorGenerator, held_out: Digits, repeats: int = 1) -> float:
    """The loss of held-out digits with their words, a mean over positions and over `repeats` times
    and noises of each, which are the same for all generators that draw theirs alike."""
    store = store_of(held_out, vectors(held_out.pictures))
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
    generator: MapVectorGenerator,
    count: int,
    seed: int,
    sampling: SamplingConfig | None = None,
    words: Sequence[str] = WORDS,
) -> np.ndarray:
    """(count, h, w, 3) uint8 pictures of the words in turn; the same noise for any setting."""
    captions = [words[number % len(words)] for number in range(count)]
    seeds = [seed * 1_000_003 + number for number in range(count)]
    sampler = VectorSampler(sampling or SamplingConfig(1.0))
    codes = sampler(Words(generator), captions, seeds, batch=250)
    return pictures_of(codes.view(count, *generator.codes_shape))


def judged(judge: Judge, pictures: np.ndarray) -> dict[str, float]:
    """Of pictures of the ten digits in turn: their Fréchet distance, and the share read right."""
    asked = np.arange(len(pictures)) % len(WORDS)
    right = judge.classes(pictures) == asked
    return {"frechet": judge.distance(pictures), "accuracy": float(right.mean())}


def sheet(rows: Sequence[tuple[str, np.ndarray]], path: str | Path) -> None:
    """Write rows of pictures, as many in each, with their names, as PNG."""
    across = len(rows[0][1])
    figure, axes = canvas(7.2, 0.42 * len(rows), (len(rows), across))
    for number, (name, pictures) in enumerate(rows):
        line = axes[number * across : (number + 1) * across]
        for place, picture in zip(line, pictures, strict=True):
            place.imshow(picture, interpolation="nearest")
            place.set_xticks([])
            place.set_yticks([])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
    save(figure, path)
