"""The picture of the page: digits of each arm, the same words and seeds."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from arra.experiments.digit_vectors import draw_digits
from arra.experiments.digits import WORDS
from arra.experiments.plotting import sheet
from arra.generators.map_vectors import MapVectorGenerator
from arra.randomness import seeded
from arra.settings import SamplingConfig
from arra.systems.flowar.arms import PIXELS, WEIGHTS, make_generator
from arra.systems.flowar.recipe import ARMS, RECIPES, SPATIAL


def load(folder: Path, arm: str, seed: int = 0) -> MapVectorGenerator:
    """A model that the claim trained in this folder (`arra reproduce flowar --out`)."""
    generator = make_generator(arm, RECIPES["full"](), seed)
    generator.load_state_dict(load_file(str(folder / f"{arm}-{seed}" / WEIGHTS)))
    return generator.eval()


def plot(folder: Path, path: str | Path) -> None:
    """Write the sheet as PNG: a row for each arm, and the first with guidance."""
    rows, count = [], 2 * len(WORDS)
    for arm in ARMS:
        with seeded(0):
            rows.append((arm, draw_digits(load(folder, arm), PIXELS, count, 7)))
    guided = SamplingConfig(2.0, "linear")
    better = draw_digits(load(folder, SPATIAL), PIXELS, count, 7, guided)
    rows.append((f"{SPATIAL},\nguidance 2", better))
    sheet(rows, path)
