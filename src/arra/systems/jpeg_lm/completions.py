"""The picture of the page: halves of held-out digits, and how the claim's model goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from arra.codecs.jpeg import JpegCodec
from arra.generators.raster import RasterGenerator
from arra.pixels import to_uint8, to_unit
from arra.samplers.ancestral import AncestralSampler
from arra.systems.jpeg_lm.arms import make_codec, sets
from arra.systems.jpeg_lm.recipe import JPEG, Recipe


def completions(
    recipe: Recipe, folder: Path, seed: int = 0, count: int = 16, draws: int = 4, zoom: int = 3
) -> Image.Image:
    """`count` held-out digits: as they are, through the codec, the prompt (two blocks of four, the
    rest of the file missing), and `draws` completions, one below the other.

    `folder` is where the claim ran, with a model of `seed` in it.
    """
    known, held_out = sets(recipe)
    codec = make_codec(recipe, JPEG, known, seed)
    assert isinstance(codec, JpegCodec)
    generator = RasterGenerator.from_pretrained(folder / f"{JPEG}-{seed}" / "training" / "model")
    pictures = held_out.pictures[:count]
    codes = codec.encode(to_unit(pictures))
    prompt = codec.prompts(codes, 2)
    cut = np.stack(
        [codec.read(codec.stream.spell([c for c in p if c >= 0])) for p in prompt.tolist()]
    )
    rows = [pictures, to_uint8(codec.decode(codes)), cut]
    for draw in range(draws):
        seeds = range(draw * count, (draw + 1) * count)
        drawn = AncestralSampler(recipe.sampling)(generator, [None] * count, seeds, prefix=prompt)
        rows.append(to_uint8(codec.decode(drawn)))
    table = np.stack(rows)  # (rows, count, side, side, 3)
    table = np.pad(table, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=90)
    side = table.shape[2]
    whole = table.transpose(0, 2, 1, 3, 4).reshape(len(rows) * side, count * side, 3)
    image = Image.fromarray(whole)
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
