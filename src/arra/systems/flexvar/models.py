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

from arra.codecs.pyramids import DirectConfig, DirectPyramid
from arra.experiments import digit_codes
from arra.experiments.digit_codes import LEVELS, SIDE, pictures_of, residual_scales, word_ids
from arra.experiments.digits import Digits, MemoryStore
from arra.generators.flexible import FlexibleConfig, FlexibleGenerator
from arra.generators.scales import ScaleConfig, ScaleGenerator
from arra.orders.pyramid import Pyramid
from arra.orders.schedules import Scales, every_scale, fitted
from arra.randomness import seeded
from arra.systems.flexvar.recipe import DEFAULT, DIRECT, FLEXIBLE, RESIDUAL, Recipe

SCALES = fitted(DEFAULT, (SIDE, SIDE))
EVERY = every_scale((SIDE, SIDE))


def direct_scales() -> DirectPyramid:
    """Of pixels: their greys."""
    scales = DirectPyramid(DirectConfig(LEVELS, width=1, normalised=False))
    scales.codebook.data.copy_(torch.linspace(0.0, 1.0, LEVELS)[:, None])
    return scales


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


@torch.no_grad()
def encode(arm: str, pictures: np.ndarray) -> Tensor:
    """Codes (N, L) of digits: of every scale that the arm's schedules choose from."""
    meaning = residual_scales() if arm == RESIDUAL else direct_scales()
    pyramid = Pyramid(SCALES if arm in (RESIDUAL, DIRECT) else EVERY)
    steps = meaning.quantize(digit_codes.latents(pictures), pyramid)
    return torch.cat([step.codes for step in steps], dim=1)


@torch.no_grad()
def decode(arm: str, codes: Tensor, sizes: Scales = SCALES) -> np.ndarray:
    """Digits (N, h, w, 3) uint8 of codes (N, L) of these scales; h x w is the last."""
    meaning = residual_scales() if arm == RESIDUAL else direct_scales()
    values = meaning.last(codes, Pyramid(sizes))[:, 0].clamp(0.0, 1.0)
    return pictures_of((values * (LEVELS - 1)).round().long())


def store_of(arm: str, known: Digits) -> MemoryStore:
    """Codes of digits, with their words."""
    return digit_codes.store_of(known, encode(arm, known.pictures))
