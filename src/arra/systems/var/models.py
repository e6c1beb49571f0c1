"""The three orders of the claim over one network.

Raster orders use the greys of pixels as codes; scales a residual pyramid of them
(`experiments/digit_codes`). All give every digit back without loss.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arra.codecs.pyramids import CodePyramid, ResidualConfig
from arra.experiments import digit_codes
from arra.experiments.digit_codes import LEVELS, SIDE, greys, pictures_of, scale_generator
from arra.experiments.digits import WORDS, Digits, MemoryStore
from arra.generators.scales import ScaleConfig, ScaleGenerator
from arra.orders.pyramid import Pyramid
from arra.randomness import seeded
from arra.settings import ScaleSize
from arra.systems.var.recipe import ARMS, SCALES


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


def make_generator(arm: str, size: ScaleSize, seed: int) -> ScaleGenerator:
    """An untrained generator of this arm."""
    if arm == SCALES:
        return scale_generator(size, seed, Pyramid(ARMS[arm]))
    residual = ResidualConfig(LEVELS, LEVELS, phi=0)
    config = ScaleConfig(ARMS[arm], residual, len(WORDS) + 1, size, prefix=False)
    with seeded(seed):
        return UnitGenerator(config)


def encode(arm: str, pictures: np.ndarray) -> Tensor:
    """Codes (N, L) of digits."""
    if arm != SCALES:
        return greys(pictures).flatten(1)
    return digit_codes.encode(pictures, Pyramid(ARMS[arm]))


def decode(arm: str, codes: Tensor) -> np.ndarray:
    """Digits (N, 8, 8, 3) uint8 of codes (N, L)."""
    if arm != SCALES:
        return pictures_of(codes.view(-1, SIDE, SIDE))
    return digit_codes.decode(codes, Pyramid(ARMS[arm]))


def store_of(arm: str, known: Digits) -> MemoryStore:
    """Codes of digits in one order, with their words."""
    return digit_codes.store_of(known, encode(arm, known.pictures))
