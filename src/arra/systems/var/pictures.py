"""Pictures of the documentation: what a model of the claim draws, in- and out-paints, and edits.

`python -m arra.systems.var.pictures runs/var/scales-0/training/model docs/var` writes them; the
model is one that `arra reproduce var` left behind.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arra.experiments.digit_codes import SCALES, Words, decode, encode
from arra.experiments.digits import WORDS, digits
from arra.experiments.layout_plot import plot_layout
from arra.files import atomic_file
from arra.generators.scales import ScaleGenerator
from arra.samplers.scales import Given, ScaleSampler
from arra.settings import SamplingConfig

_SAMPLING = SamplingConfig(guidance=2.0, guidance_schedule="linear")
_CELL, _GAP = 6, 4  # screen pixels of a pixel, and of a gap


def regions() -> dict[str, Tensor]:
    """(8, 8) bool each: which pixels of a digit stand."""
    left, middle = (torch.zeros(SCALES.grid, dtype=torch.bool) for _ in range(2))
    left[:, :4] = True
    middle[2:6, 2:6] = True
    return {"in": left, "out": middle}


def painted(
    generator: ScaleGenerator,
    pictures: np.ndarray,
    words: Sequence[str],
    stands: Tensor,
    seeds: Sequence[int],
) -> np.ndarray:
    """Digits (N, 8, 8, 3) uint8 that keep what `stands` (8, 8) of `pictures` and are redrawn else,
    as what the words say: in- and out-painting with a picture's own word, editing with another."""
    kept = SCALES.kept(stands.expand(len(pictures), -1, -1))
    given = Given(encode(pictures), kept)
    codes = ScaleSampler(_SAMPLING)(Words(generator), list(words), list(seeds), given=given)
    return decode(codes)


def sheet(rows: Sequence[np.ndarray]) -> Image.Image:
    """Rows of digits (N, 8, 8, 3), dark on light, enlarged."""
    side = 8 * _CELL
    height, width = (len(rows), max(map(len, rows)))
    shape = (height * (side + _GAP) + _GAP, width * (side + _GAP) + _GAP, 3)
    paper = np.full(shape, 255, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = (_GAP + n * (side + _GAP) for n in (i, j))
            large = np.repeat(np.repeat(255 - picture, _CELL, axis=0), _CELL, axis=1)
            paper[top : top + side, left : left + side] = large
    return Image.fromarray(paper)


def draw(generator: ScaleGenerator, folder: Path) -> None:
    """Write samples.png, painting.png and mask.png into `folder`."""
    generator.eval()
    folder.mkdir(parents=True, exist_ok=True)
    sampler, words = ScaleSampler(_SAMPLING), Words(generator)
    free = [decode(sampler(words, WORDS, range(10 * row, 10 * row + 10))) for row in range(4)]
    _save(sheet(free), folder / "samples.png")
    held_out = digits()[1]
    first = [int(np.flatnonzero(held_out.labels == digit)[0]) for digit in range(10)]
    real, seeds = held_out.pictures[first], range(10)
    others = [*WORDS[1:], WORDS[0]]
    areas = regions()
    rows = [real]
    rows += [painted(generator, real, WORDS, areas[name], seeds) for name in ("in", "out")]
    rows += [painted(generator, real, others, areas["in"], seeds)]
    _save(sheet(rows), folder / "painting.png")
    plot_layout(SCALES.layout(prefix=6), folder / "mask.png", "scales 1, 2, 4, 8")


def _save(picture: Image.Image, path: Path) -> None:
    with atomic_file(path) as temporary:
        picture.save(temporary, format="png", optimize=True)


def main() -> None:
    """Load the model and draw."""
    parser = argparse.ArgumentParser(description="Draw the pictures of the page on var.")
    parser.add_argument("model", type=Path, help="folder of a trained model of the claim")
    parser.add_argument("folder", type=Path, help="where pictures go")
    options = parser.parse_args()
    draw(ScaleGenerator.from_pretrained(options.model), options.folder)


if __name__ == "__main__":
    main()
