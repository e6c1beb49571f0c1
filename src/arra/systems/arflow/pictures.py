"""The picture of the page: the ten digits, two of each, by every arm, from the same noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from arra.experiments.digits import WORDS
from arra.experiments.plotting import canvas, save
from arra.systems.arflow.arms import WEIGHTS, draw, make_generator
from arra.systems.arflow.recipe import ARMS, RECIPES, SCALES


def drawn(folder: Path, arm: str, scale: float, seed: int = 0) -> np.ndarray:
    """(20, 8, 8, 3) uint8 by what the claim trained in this folder (`arra reproduce --out`)."""
    generator = make_generator(arm, RECIPES["full"](), seed)
    generator.load_state_dict(load_file(str(folder / f"{arm}-{seed}" / WEIGHTS)))
    return draw(generator.eval(), scale, 2 * len(WORDS), seed)


def plot(folder: Path, path: str | Path) -> None:
    """Write the sheet as PNG: a row for each arm and scale of guidance."""
    rows = [
        (f"{arm}\nscale {scale:g}", drawn(folder, arm, scale)) for scale in SCALES for arm in ARMS
    ]
    across = 2 * len(WORDS)
    figure, axes = canvas(8.4, 0.44 * len(rows), (len(rows), across))
    for number, (name, pictures) in enumerate(rows):
        line = axes[number * across : (number + 1) * across]
        for place, picture in zip(line, pictures, strict=True):
            place.imshow(picture, interpolation="nearest")
            place.set_xticks([])
            place.set_yticks([])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
    save(figure, path)
