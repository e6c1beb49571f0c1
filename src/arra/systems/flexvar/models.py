"""The arms of the claim over one network, and what their codes are of a digit.

A pixel of a digit has one of 17 greys, and the latent is the pixel grid itself, in [0, 1]. Direct
scales have 17 evenly spaced greys as codes, and so give the picture back exactly; residual ones the
greys and their negatives, whose last scale leaves an error of less than half a grey. No codec has
to be trained, and none can be to blame.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from arra.codecs.pyramids import DirectConfig, DirectPyramid, ResidualConfig, ResidualPyramid
from arra.experiments.digits import WORDS, Digits, MemoryStore
from arra.generators.flexible import FlexibleConfig, FlexibleGenerator
from arra.generators.scales import ScaleConfig, ScaleGenerator
from arra.orders.pyramid import Pyramid
from arra.orders.schedules import Scales, every_scale, fitted
from arra.randomness import seeded
from arra.systems.flexvar.recipe import DEFAULT, DIRECT, FLEXIBLE, LEVELS, RESIDUAL, SIDE, Recipe

SCALES = fitted(DEFAULT, (SIDE, SIDE))
EVERY = every_scale((SIDE, SIDE))


def residual_scales() -> ResidualPyramid:
    """Of pixels: no smoothing, a codebook of evenly spaced numbers in [-1, 1]."""
    scales = ResidualPyramid(ResidualConfig(2 * LEVELS - 1, width=1, phi=0))
    scales.codebook.data.copy_(torch.linspace(-1.0, 1.0, 2 * LEVELS - 1)[:, None])
    return scales


def direct_scales() -> DirectPyramid:
    """Of pixels: their greys."""
    scales = DirectPyramid(DirectConfig(LEVELS, width=1, normalised=False))
    scales.codebook.data.copy_(torch.linspace(0.0, 1.0, LEVELS)[:, None])
    return scales


def word_ids() -> dict[str, list[int]]:
    """One id for each of the ten words; 0 is padding."""
    return {word: [number] for number, word in enumerate(WORDS, start=1)}


def make_generator(arm: str, recipe: Recipe, seed: int) -> ScaleGenerator:
    """An untrained generator of this arm."""
    text = len(word_ids()) + 1
    with seeded(seed):
        if arm == RESIDUAL:
            config = ScaleConfig(SCALES, residual_scales().config, text, recipe.size, prefix=False)
            made = ScaleGenerator(config)
        else:
            made = FlexibleGenerator(_config(arm, recipe, text))
    meaning = residual_scales() if arm == RESIDUAL else direct_scales()
    made.scales.load_state_dict(meaning.state_dict())
    return made


def _config(arm: str, recipe: Recipe, text: int) -> FlexibleConfig:
    return FlexibleConfig(
        stored=SCALES if arm == DIRECT else EVERY,
        sizes=SCALES,
        direct=direct_scales().config,
        text=text,
        schedules=recipe.schedules if arm == FLEXIBLE else None,
        table=0 if arm == DIRECT else recipe.table,
        size=recipe.size,
        prefix=False,
    )


def latents(pictures: np.ndarray) -> Tensor:
    """(N, 1, 8, 8) in [0, 1], exactly the greys, of digits (N, 8, 8, 3) uint8."""
    greys = np.round(pictures[..., 0] / 255 * (LEVELS - 1)) / (LEVELS - 1)
    return torch.from_numpy(greys).float()[:, None]


@torch.no_grad()
def encode(arm: str, pictures: np.ndarray) -> Tensor:
    """Codes (N, L) of digits: of every scale that the arm's schedules choose from."""
    meaning = residual_scales() if arm == RESIDUAL else direct_scales()
    pyramid = Pyramid(SCALES if arm in (RESIDUAL, DIRECT) else EVERY)
    steps = meaning.quantize(latents(pictures), pyramid)
    return torch.cat([step.codes for step in steps], dim=1)


@torch.no_grad()
def decode(arm: str, codes: Tensor, sizes: Scales = SCALES) -> np.ndarray:
    """Digits (N, h, w, 3) uint8 of codes (N, L) of these scales; h x w is the last."""
    meaning = residual_scales() if arm == RESIDUAL else direct_scales()
    values = meaning.last(codes, Pyramid(sizes))[:, 0].clamp(0.0, 1.0)
    grey = (values * (LEVELS - 1)).round() * (255 / (LEVELS - 1))
    return np.repeat(grey.round().byte().numpy()[..., None], 3, axis=-1)


def store_of(arm: str, known: Digits) -> MemoryStore:
    """Codes of digits, with their words."""
    ids = word_ids()
    return MemoryStore([ids[word] for word in known.captions], encode(arm, known.pictures))
