"""Pixels of digits, or of clips of them, as vectors for generators that draw entity by entity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from arra.experiments.digits import MemoryStore
from arra.generators.entities import SequenceOfEntities
from arra.objectives.laws import NextVector
from arra.samplers.noise import PictureNoise
from arra.settings import BatchConfig
from arra.training.config import TrainConfig
from arra.training.loop import TrainReport, train

BATCHES = BatchConfig(size=32, drop_caption=0.0, multiple=1)


def training(steps: int) -> TrainConfig:
    """How claims train models of some hundred thousand parameters from noise to pixels."""
    return TrainConfig(
        steps=steps,
        learning_rate=3e-3,
        weight_decay=0.02,
        warmup=min(50, steps // 4),
        schedule="linear",
        precision="fp32",
        checkpoint_every=steps,
        keep=1,
        log_every=50,
    )


def codes_of(grey: np.ndarray, patch: int) -> Tensor:
    """(N, h, w, T patch^2) in [-1, 1] of clips (N, T, H, W) of greys in [0, 1]: the squares of all
    frames side by side."""
    clips = 2.0 * torch.from_numpy(grey).float() - 1.0
    return torch.nn.functional.pixel_unshuffle(clips, patch).permute(0, 2, 3, 1).contiguous()


def grey_of(codes: Tensor, patch: int) -> np.ndarray:
    """Clips (N, T, H, W) of greys in [0, 1] of what `codes_of` makes of them, or of drawn ones."""
    clips = torch.nn.functional.pixel_shuffle(codes.permute(0, 3, 1, 2), patch)
    return ((clips + 1.0) / 2.0).clamp(0.0, 1.0).numpy()


def learn(
    generator: SequenceOfEntities,
    codes: Tensor,
    labels: Sequence[int],
    batch: BatchConfig,
    config: TrainConfig,
    folder: Path,
) -> TrainReport:
    """Train a generator on codes (N, h, w, C) whose captions are one id each, the label plus 1."""
    store = MemoryStore([[int(label) + 1] for label in labels], codes)
    return train(generator, [NextVector()], generator.batches(store, batch), config, folder)


@torch.inference_mode()
def draw(
    generator: SequenceOfEntities, labels: Sequence[int], seed: int, batch: int = 320
) -> Tensor:
    """Codes (N, h, w, C), one of each label, without guidance."""
    found = []
    for start in range(0, len(labels), batch):
        here = range(start, min(start + batch, len(labels)))
        noise = PictureNoise([seed * 1_000_003 + picture for picture in here]).normal
        cache = generator.begin([[int(labels[picture]) + 1] for picture in here], noise)
        for _ in range(generator.units):
            generator.unit(cache, noise, 1.0, 1.0)
        found.append(generator.drawn(cache))
    return torch.cat(found).unflatten(1, generator.config.grid)
