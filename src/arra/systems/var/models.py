"""The three orders of the claim over one network, and what their codes are of a digit.

A pixel of a digit has one of 17 greys. Raster orders use these as codes. For scales the latent is
the pixel grid itself, in [0, 1], and the codebook 33 numbers in [-1, 1]: with a step of a grey's
width the last scale leaves an error of less than half a grey, so that rounding gives the picture
back. No codec has to be trained, and none can be to blame.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arra.codecs.pyramids import CodePyramid, ResidualConfig, ResidualPyramid
from arra.experiments.digits import WORDS, Digits, MemoryStore
from arra.generators.scales import ScaleConfig, ScaleGenerator
from arra.orders.pyramid import Pyramid
from arra.randomness import seeded
from arra.settings import ScaleSize
from arra.systems.var.recipe import ARMS, LEVELS, SCALES, SIDE

STEPS = 2 * (LEVELS - 1) + 1
"""Codes of the residual pyramid: greys and their negatives."""


class LastUnit(CodePyramid):
    """Units of equal size, each of which reads the codes of the one before, place by place.

    The plain input of next-token prediction, here for units of any number of codes. Codes are
    read as unit vectors, so that the network's first layer is a table of embeddings.
    """

    def __init__(self, vocabulary: int):
        super().__init__()
        self.vocabulary = self.width = vocabulary

    def begin(self, rows: int, pyramid: Pyramid, device: torch.device) -> Tensor:
        return torch.zeros(rows, pyramid.counts[0], self.width, device=device)

    def add(self, state: Tensor, codes: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        return F.one_hot(codes, self.width).to(state.dtype)

    def read(self, state: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        return state

    def inputs(self, codes: Tensor, pyramid: Pyramid) -> Tensor:
        return F.one_hot(codes[:, : -pyramid.counts[0]], self.width).float()


class UnitGenerator(ScaleGenerator):
    """The blocks of a next-scale generator over units of equal size."""

    registered_name = "var-units"  # not registered: a folder of it is not taken for scales

    def _meaning(self) -> CodePyramid:
        return LastUnit(self.config.residual.vocabulary)


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


def make_generator(arm: str, size: ScaleSize, text: int, seed: int) -> ScaleGenerator:
    """An untrained generator of this arm, over a tokenizer of `text` entries."""
    sizes = ARMS[arm]
    if arm != SCALES:
        config = ScaleConfig(sizes, ResidualConfig(LEVELS, LEVELS, phi=0), text, size, False)
        with seeded(seed):
            return UnitGenerator(config)
    scales = residual_scales()
    with seeded(seed):
        made = ScaleGenerator(ScaleConfig(sizes, scales.config, text, size, prefix=False))
    made.scales.load_state_dict(scales.state_dict())
    return made


@torch.no_grad()
def encode(arm: str, pictures: np.ndarray) -> Tensor:
    """Codes (N, L) of digits."""
    grey = greys(pictures)
    if arm != SCALES:
        return grey.flatten(1)
    latents = grey[:, None].float() / (LEVELS - 1)
    steps = residual_scales().quantize(latents, Pyramid(ARMS[arm]))
    return torch.cat([step.codes for step in steps], dim=1)


@torch.no_grad()
def decode(arm: str, codes: Tensor) -> np.ndarray:
    """Digits (N, 8, 8, 3) uint8 of codes (N, L)."""
    if arm != SCALES:
        return pictures_of(codes.view(-1, SIDE, SIDE))
    latents = residual_scales().last(codes, Pyramid(ARMS[arm]))[:, 0]
    return pictures_of((latents.clamp(0.0, 1.0) * (LEVELS - 1)).round().long())


def store_of(arm: str, known: Digits, ids: Mapping[str, list[int]]) -> MemoryStore:
    """Codes of digits in one order with their words; `ids` gives the ids of each word."""
    return MemoryStore([ids[word] for word in known.captions], encode(arm, known.pictures))


def word_ids() -> dict[str, list[int]]:
    """One id for each of the ten words; 0 is padding."""
    return {word: [number] for number, word in enumerate(WORDS, start=1)}
