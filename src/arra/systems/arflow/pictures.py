"""The picture of the page: the ten digits, two of each, by every arm, from the same noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from arra.experiments.digit_vectors import draw_digits
from arra.experiments.digits import WORDS
from arra.experiments.plotting import sheet
from arra.settings import SamplingConfig
from arra.systems.arflow.arms import CELLS, WEIGHTS, make_generator
from arra.systems.arflow.recipe import ARMS, RECIPES, SCALES


def drawn(folder: Path, arm: str, scale: float, seed: int = 0) -> np.ndarray:
    """(20, 8, 8, 3) uint8 by what the claim trained in this folder (`arra reproduce --out`)."""
    generator = make_generator(arm, RECIPES["full"](), seed)
    generator.load_state_dict(load_file(str(folder / f"{arm}-{seed}" / WEIGHTS)))
    sampling = SamplingConfig(guidance=scale)
    return draw_digits(generator.eval(), CELLS, 2 * len(WORDS), seed, sampling)


def plot(folder: Path, path: str | Path) -> None:
    """Write the sheet as PNG: a row for each arm and scale of guidance."""
    rows = [
        (f"{arm}\nscale {scale:g}", drawn(folder, arm, scale)) for scale in SCALES for arm in ARMS
    ]
    sheet(rows, path)
