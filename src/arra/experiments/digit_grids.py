"""Llamas over codes of handwritten digits: trained in seconds, and what they draw judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import arra.samplers as _registers_samplers  # noqa: F401 - generators name theirs
from arra.codecs.base import Codec
from arra.experiments.digits import (
    WORDS,
    Digits,
    Judge,
    MemoryStore,
    encoded,
    in_turn,
    seeds_of,
)
from arra.generators.grid import GridConfig, GridGenerator
from arra.metrics.likelihood import held_out_bits
from arra.objectives.laws import NextToken
from arra.pixels import to_uint8
from arra.registry import samplers
from arra.settings import BatchConfig, GridOptions, LlamaSize, SamplingConfig
from arra.training.config import TrainConfig
from arra.training.loop import train


class LabelStepper:
    """A generator whose conditions are the ten classes, asked for by their words."""

    def __init__(self, generator: Any):
        self.generator = generator

    def prompt_ids(self, caption: str | None) -> list[int]:
        """The class of a word; None is the null condition."""
        return self.generator.prompt(() if caption is None else (WORDS.index(caption),))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.generator, name)


def label_store(codec: Codec, pictures: Digits) -> MemoryStore:
    """Codes of digits, with their class in the place of a caption."""
    labels = [[int(label)] for label in pictures.labels]
    return MemoryStore(labels, encoded(codec, pictures.pictures))


def label_generator(
    codec: Codec,
    grid: tuple[int, int],
    size: LlamaSize,
    seed: int,
    kind: type[GridGenerator] = GridGenerator,
) -> GridGenerator:
    """A class-conditional generator of the codec's codes, its weights a function of `seed`."""
    options = GridOptions(condition="class")
    config = GridConfig(grid, codec.vocabulary, codec.split, len(WORDS), size=size, options=options)
    return kind.seeded(config, seed)


def train_labels(
    generator: GridGenerator,
    store: MemoryStore,
    batch: BatchConfig,
    config: TrainConfig,
    seed: int,
    folder: Path,
) -> float:
    """Train in place, data order and dropout by `seed`; median seconds of a step."""
    batches = generator.batches(store, replace(batch, seed=seed))
    report = train(generator, [NextToken()], batches, replace(config, seed=seed), folder)
    return report.median_step_seconds


def bits_per_picture(generator: GridGenerator, store: MemoryStore) -> float:
    """Held-out bits of a picture's codes, its class known."""
    size = max(n for n in range(1, 201) if len(store) % n == 0)
    batches = generator.batches(store, BatchConfig(size, drop_caption=0.0))
    parts = [batches.batch(number) for number in range(len(store) // size)]
    return held_out_bits(generator, parts).per_picture


def draw_labels(
    generator: GridGenerator, codec: Codec, sampling: SamplingConfig, count: int, seed: int
) -> np.ndarray:
    """(count, H, W, 3) uint8 pictures of the ten digits in turn; the same noise for any setting."""
    sampler = samplers[generator.sampler](sampling)
    stepper = LabelStepper(generator)
    codes = sampler(stepper, in_turn(count), seeds_of(count, seed), batch=500)
    return painted(codec, codes.view(count, *generator.codes_shape))


@torch.inference_mode()
def painted(codec: Codec, codes: Tensor) -> np.ndarray:
    """(N, H, W, 3) uint8 of codes (N, ...)."""
    return np.concatenate([to_uint8(codec.decode(part)) for part in codes.split(500)])


def real_pictures(
    judge: Judge, known: Digits, held_out: Digits, crop: int, count: int
) -> dict[str, float]:
    """What real pictures get: the distance of training pictures, the share that is read right."""
    real = known.cropped(crop).pictures
    some = np.random.default_rng(0).choice(len(real), min(count, len(real)), replace=False)
    right = judge.classes(held_out.pictures) == held_out.labels
    return {"frechet": judge.distance(real[some]), "accuracy": float(right.mean())}


def reconstructed(codec: Codec, pictures: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Pictures (N, H, W, 3) uint8 through the codec and back."""
    return painted(codec, encoded(codec, np.asarray(pictures)))
