"""The picture of the page: one model, the same words and seeds, in several schedules and sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from arra.experiments.digit_codes import Words
from arra.experiments.digits import WORDS, digits
from arra.experiments.plotting import sheet
from arra.generators.flexible import FlexibleGenerator
from arra.orders.schedules import Scales, fitted
from arra.samplers.scales import Given, ScaleSampler
from arra.settings import SamplingConfig
from arra.systems.flexvar.arms import WEIGHTS
from arra.systems.flexvar.models import decode, encode, make_generator
from arra.systems.flexvar.recipe import FLEXIBLE, RECIPES, named

SHOWN: tuple[tuple[tuple[int, ...], tuple[int, int]], ...] = (
    ((1, 2, 4, 8), (8, 8)),
    ((1, 3, 8), (8, 8)),
    ((1, 2, 3, 4, 5, 6, 7, 8), (8, 8)),
    ((1, 2, 4, 8), (8, 6)),
    ((1, 2, 4, 8), (8, 12)),
    ((1, 2, 4, 8, 12), (12, 12)),
    ((1, 2, 4, 8, 16), (16, 16)),
)
"""Schedules and sizes, in rows and columns of pixels; training had up to 8 x 8."""


def load(folder: Path, seed: int = 0) -> FlexibleGenerator:
    """The flexible model that the claim trained in this folder (`arra reproduce flexvar --out`)."""
    generator = make_generator(FLEXIBLE, RECIPES["full"](), seed)
    generator.load_state_dict(load_file(str(folder / f"{FLEXIBLE}-{seed}" / WEIGHTS)))
    assert isinstance(generator, FlexibleGenerator)
    return generator.eval()


def draw(generator: FlexibleGenerator, sizes: Scales, given: Given | None = None) -> np.ndarray:
    """(10, h, w, 3) uint8: one of each digit, the seeds alike in all schedules."""
    sampler = ScaleSampler(SamplingConfig(2.0, "linear"))
    view = Words(generator.scheduled(sizes))
    with torch.inference_mode():
        codes = sampler(view, WORDS, range(len(WORDS)), given=given)
    return decode(FLEXIBLE, codes, sizes)


def refined(generator: FlexibleGenerator, side: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Held-out digits averaged to `side` pixels, and drawn at 8 x 8 from there."""
    known = digits()[1]
    rows = [int(np.flatnonzero(known.labels == digit)[0]) for digit in range(10)]
    sizes = fitted((1, 2, side, 6, 8), (8, 8))
    stored = generator.stored.places_of(sizes[:3])
    codes = encode(FLEXIBLE, known.pictures[rows])[:, stored]
    whole = Given.beginning(codes, sum(h * w for h, w in sizes))
    return decode(FLEXIBLE, codes, sizes[:3]), draw(generator, sizes, whole)


def plot(generator: FlexibleGenerator, path: str | Path) -> None:
    """Write the sheet as PNG: a row for each schedule, then what is refined from 4 x 4 pixels."""
    rows = [
        (f"{named(sides)}\n{grid[0]} x {grid[1]}", draw(generator, fitted(sides, grid)))
        for sides, grid in SHOWN
    ]
    small, large = refined(generator)
    rows += [("given\n4 x 4", small), ("refined\n8 x 8", large)]
    sheet(rows, path)
