"""The pictures of the page: digits drawn in each way, and how one comes about."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from arra.experiments.digit_codes import Words
from arra.experiments.digit_vectors import draw_digits
from arra.experiments.digits import WORDS, in_turn, seeds_of
from arra.experiments.plotting import sheet
from arra.generators.map_vectors import MapVectorGenerator
from arra.samplers.noise import PictureNoise
from arra.systems.e_car.arms import PIXELS, WEIGHTS, make_generator, ways_of
from arra.systems.e_car.recipe import ARMS, RECIPES, STAGES


def load(folder: Path, arm: str, seed: int = 0) -> MapVectorGenerator:
    """A model that the claim trained in this folder (`arra reproduce e-car --out`)."""
    generator = make_generator(arm, RECIPES["full"](), seed)
    generator.load_state_dict(load_file(str(folder / f"{arm}-{seed}" / WEIGHTS)))
    return generator.eval()


@torch.inference_mode()
def ends(generator: MapVectorGenerator, count: int, seed: int) -> list[torch.Tensor]:
    """(count, h, w, 1) what each stage ended with, of the digits in turn."""
    noise, words = PictureNoise(seeds_of(count, seed)).normal, Words(generator)
    cache = generator.begin([words.prompt_ids(word) for word in in_turn(count)], noise)
    found = []
    for _ in range(generator.units):
        generator.unit(cache, noise, 1.0, 1.0)
        assert cache.drawn is not None
        found.append(cache.drawn.permute(0, 2, 3, 1))
    return found


def plot(folder: Path, path: str | Path) -> None:
    """Write the sheet as PNG: what the stages ended with, then every way of drawing."""
    recipe, count = RECIPES["full"](), 2 * len(WORDS)
    stages = load(folder, STAGES)
    rows = [
        (f"end of stage {number}", PIXELS.pictures(drawn))
        for number, drawn in enumerate(ends(stages, count, 7), start=1)
    ]
    for arm in ARMS:
        ways = ways_of(arm, load(folder, arm), recipe)
        rows += [(name, draw_digits(way, PIXELS, count, 7)) for name, way in ways.items()]
    sheet(rows, path)
