"""Pixels of handwritten digits as codes without loss, for next-scale generators.

A pixel of a digit has one of 17 greys. For scales the latent is the pixel grid itself, in [0, 1],
and the codebook 33 numbers in [-1, 1]: with a step of a grey's width the last scale leaves an error
of less than half a grey, so that rounding gives the picture back. No codec has to be trained, and
none can be to blame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arra.codecs.pyramids import ResidualConfig, ResidualPyramid
from arra.experiments.digits import WORDS, Digits, MemoryStore
from arra.generators.scales import ScaleConfig, ScaleGenerator
from arra.orders.pyramid import Pyramid
from arra.randomness import seeded
from arra.settings import BatchConfig, ScaleSize
from arra.training.config import TrainConfig

SIDE = 8
LEVELS = 17
"""Greys of a digit's pixel."""
STEPS = 2 * (LEVELS - 1) + 1
"""Codes of the residual pyramid: greys and their negatives."""
SCALES = Pyramid.square((1, 2, 4, SIDE))
BATCHES = BatchConfig(size=32, drop_caption=0.1, multiple=1)


def training(steps: int) -> TrainConfig:
    """How claims train next-scale models of a quarter of a million parameters on digits."""
    return TrainConfig(
        steps=steps,
        learning_rate=4e-3,
        weight_decay=0.05,
        warmup=50,
        schedule="linear",
        clip=2.0,
        precision="fp32",
        checkpoint_every=steps,
        keep=1,
        log_every=50,
    )


def greys(pictures: np.ndarray) -> Tensor:
    """(N, 8, 8) int64, 0 to 16, of digits (N, 8, 8, 3) uint8."""
    return torch.from_numpy(np.round(pictures[..., 0] / 255 * (LEVELS - 1))).long()


def pictures_of(grey: Tensor) -> np.ndarray:
    """(N, 8, 8, 3) uint8 of greys (N, 8, 8)."""
    values = np.round(grey.numpy() * (255 / (LEVELS - 1))).astype(np.uint8)
    return np.repeat(values[..., None], 3, axis=-1)


def residual_scales() -> ResidualPyramid:
    """The residual pyramid of pixels: no smoothing, a codebook of evenly spaced numbers."""
    scales = ResidualPyramid(ResidualConfig(STEPS, width=1, phi=0))
    scales.codebook.data.copy_(torch.linspace(-1.0, 1.0, STEPS)[:, None])
    return scales


def latents(pictures: np.ndarray) -> Tensor:
    """(N, 1, 8, 8) in [0, 1], exactly the greys, of digits (N, 8, 8, 3) uint8."""
    return greys(pictures)[:, None].float() / (LEVELS - 1)


@torch.no_grad()
def encode(pictures: np.ndarray, pyramid: Pyramid = SCALES) -> Tensor:
    """Codes (N, L) of digits, scale by scale."""
    steps = residual_scales().quantize(latents(pictures), pyramid)
    return torch.cat([step.codes for step in steps], dim=1)


@torch.no_grad()
def decode(codes: Tensor, pyramid: Pyramid = SCALES) -> np.ndarray:
    """Digits (N, 8, 8, 3) uint8 of codes (N, L)."""
    found = residual_scales().last(codes, pyramid)[:, 0]
    return pictures_of((found.clamp(0.0, 1.0) * (LEVELS - 1)).round().long())


def word_ids() -> dict[str, list[int]]:
    """One id for each of the ten words; 0 is padding."""
    return {word: [number] for number, word in enumerate(WORDS, start=1)}


def scale_generator(size: ScaleSize, seed: int, pyramid: Pyramid = SCALES) -> ScaleGenerator:
    """An untrained class-conditional generator of these codes (captions count by their mean)."""
    scales = residual_scales()
    config = ScaleConfig(pyramid.sizes, scales.config, len(WORDS) + 1, size, prefix=False)
    with seeded(seed):
        made = ScaleGenerator(config)
    made.scales.load_state_dict(scales.state_dict())
    return made


def store_of(
    known: Digits, codes: Tensor, ids: Mapping[str, list[int]] | None = None
) -> MemoryStore:
    """Codes (N, ...) of digits with their words; `ids` gives the ids of each word."""
    ids = word_ids() if ids is None else ids
    return MemoryStore([ids[word] for word in known.captions], codes)


class Words:
    """A generator whose captions are the ten words (it needs no tokenizer for them)."""

    def __init__(self, generator: Any):
        self.generator, self._ids = generator, word_ids()

    def prompt_ids(self, caption: str | None) -> list[int]:
        """The id of a word; None is the null condition."""
        return [] if caption is None else self._ids[caption]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.generator, name)
