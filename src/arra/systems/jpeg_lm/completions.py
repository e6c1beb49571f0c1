"""The picture of the page: halves of digits, and how the model of the claim goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from arra.codecs.jpeg import JpegCodec
from arra.generators.raster import RasterGenerator
from arra.pixels import to_uint8, to_unit
from arra.samplers.ancestral import AncestralSampler
from arra.systems.jpeg_lm.arms import make_codec, sets
from arra.systems.jpeg_lm.recipe import JPEG, Recipe


def completions(
    recipe: Recipe, folder: Path, seed: int = 0, count: int = 16, draws: int = 2, zoom: int = 3
) -> Image.Image:
    """`count` training digits through the codec and, below each, `draws` completions of its upper
    half (two blocks of four); the same of held-out digits; and `draws` rows from nothing.

    `folder` is where the claim ran, with a model of `seed` in it.
    """
    known, held_out = sets(recipe)
    codec = make_codec(recipe, JPEG, known, seed)
    assert isinstance(codec, JpegCodec)
    generator = RasterGenerator.from_pretrained(folder / f"{JPEG}-{seed}" / "training" / "model")
    sampler, rows = AncestralSampler(recipe.sampling), []

    def drawn(prompt: Tensor | None) -> None:
        for draw in range(draws):
            seeds = range(draw * count, (draw + 1) * count)
            codes = sampler(generator, [None] * count, seeds, prefix=prompt)
            rows.append(to_uint8(codec.decode(codes)))

    for some in (known, held_out):
        codes = codec.encode(to_unit(some.pictures[:count]))
        rows.append(to_uint8(codec.decode(codes)))
        drawn(codec.prompts(codes, 2))
    drawn(None)
    table = np.stack(rows)  # (rows, count, side, side, 3)
    table = np.pad(table, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=90)
    side = table.shape[2]
    whole = table.transpose(0, 2, 1, 3, 4).reshape(len(rows) * side, count * side, 3)
    image = Image.fromarray(whole)
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
