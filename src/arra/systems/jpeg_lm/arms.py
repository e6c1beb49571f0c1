"""The work of the claim: codecs, one model trained and judged, and how codecs bear new pictures."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from arra.codecs.base import Codec
from arra.codecs.jpeg import JpegCodec
from arra.codecs.patches import PatchCodec
from arra.data.tokenizer import train_text_tokenizer
from arra.experiments.digits import Digits, Judge, MemoryStore, digits, encoded, train_judge
from arra.experiments.once import once
from arra.generators.fast import decoding
from arra.generators.raster import RasterGenerator
from arra.metrics.likelihood import held_out_bits
from arra.objectives.laws import NextToken
from arra.pixels import to_uint8, to_unit
from arra.samplers.ancestral import AncestralSampler
from arra.settings import BatchConfig
from arra.systems.jpeg_lm.recipe import JPEG, KNOWN, PIXELS, SCRAMBLED, SQUARES, Recipe
from arra.training.loop import train

_CIPHER = np.random.default_rng(0).integers(0, 256, 1 << 16, dtype=np.uint8)


class ScrambledCodec(JpegCodec):
    """The same files under a fixed cipher: byte n is exclusive-or byte n of random numbers.

    Nothing is lost or made longer, and whoever counts bytes can read it; but a byte means something
    else at each place, and what a code says changes with where it stands.
    """

    def bodies(self, pictures: np.ndarray) -> list[bytes]:
        return [_scrambled(body) for body in super().bodies(pictures)]

    def spell(self, codes: Tensor) -> list[bytes]:
        return [_scrambled(body) for body in super().spell(codes)]


def _scrambled(body: bytes) -> bytes:
    return (np.frombuffer(body, np.uint8) ^ _CIPHER[: len(body)]).tobytes()


TURN, MOVE, SIZE = 0.25, 0.06, 0.12
"""How far a digit is turned (radians), moved (parts of its side) and sized (parts), at most."""


def rewritten(some: Digits, side: int, variants: int, seed: int) -> Digits:
    """Every digit enlarged to side x side pixels `variants` times, each time turned, moved and
    sized by other random amounts; interpolated linearly."""
    random = np.random.default_rng(seed)
    grey = [Image.fromarray(picture).convert("L") for picture in some.pictures]
    found = [
        np.array(
            image.transform((side, side), _AFFINE, _written(image.width, side, random), _LINEAR)
        )
        for _ in range(variants)
        for image in grey
    ]
    return Digits(np.stack(found)[..., None].repeat(3, axis=-1), np.tile(some.labels, variants))


_AFFINE, _LINEAR = Image.Transform.AFFINE, Image.Resampling.BILINEAR


def _written(old: int, side: int, random: np.random.Generator) -> tuple[float, ...]:
    """From where in a picture of old x old pixels each of side x side comes: Pillow's (a, ..., f)
    with x = a u + b v + c and y = d u + e v + f."""
    turn, right, down, size = random.uniform(-1, 1, 4) * (TURN, MOVE, MOVE, SIZE)
    scale = old / side * (1 + size)
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    middle, shift = side / 2, (old / 2 + old * right, old / 2 + old * down)
    x, y = (shift[0] - middle * (cos - sin), shift[1] - middle * (sin + cos))
    return tuple(map(float, (cos, -sin, x, sin, cos, y)))


def sets(recipe: Recipe) -> tuple[Digits, Digits]:
    """Training digits and held-out ones, written anew."""
    known, held_out = digits()
    return (
        rewritten(known, recipe.side, recipe.variants, seed=0),
        rewritten(held_out, recipe.side, recipe.held_out_variants, seed=1),
    )


def make_judge(recipe: Recipe) -> Judge:
    """A judge that has seen the training digits; its reference are the held-out ones."""
    return train_judge(*sets(recipe), crop=0)


def make_codec(recipe: Recipe, arm: str, known: Digits, seed: int) -> Codec:
    """The codec of an arm, of training digits."""
    if arm == PIXELS:
        return PatchCodec.levels(recipe.levels)
    if arm == SQUARES:
        seen = known.pictures[known.labels < KNOWN]
        return PatchCodec.fit(seen, recipe.squares, seed=seed)
    kind = {JPEG: JpegCodec, SCRAMBLED: ScrambledCodec}[arm]
    return kind.fit(known.pictures, recipe.jpeg)


def repainted(codec: Codec, pictures: np.ndarray) -> np.ndarray:
    """Pictures as the codec gives them back, without any model."""
    return to_uint8(codec.decode(codec.encode(to_unit(pictures))))


def make_generator(recipe: Recipe, codec: Codec, seed: int) -> RasterGenerator:
    """The language model of an arm: what differs is the number of codes."""
    grid = codec.grid or (recipe.side // codec.downsample,) * 2
    return RasterGenerator.from_scratch(
        train_text_tokenizer(["digit"]),
        codec.vocabulary,
        grid,
        recipe.size,
        seed=seed,
        stream=codec.stream,
    )


def train_arm(
    recipe: Recipe, judge: Judge, arm: str, seed: int, folder: Path, quiet: bool
) -> dict[str, Any]:
    """Train one model, draw with it, and judge what it draws."""

    def make(target: Path) -> dict[str, Any]:
        known, held_out = sets(recipe)
        codec = make_codec(recipe, arm, known, seed)
        generator = make_generator(recipe, codec, seed)
        store = MemoryStore([[]] * len(known.labels), encoded(codec, known.pictures))
        length = _positions(generator, store)
        size = max(1, round(recipe.tokens / length))
        batch = BatchConfig(size, drop_caption=0.0, multiple=1, seed=seed)
        config = replace(recipe.train, seed=seed, learning_rate=recipe.rates[arm])
        report = train(
            generator, [NextToken()], generator.batches(store, batch), config, target / "training"
        )
        return {
            "positions": length,
            "batch": size,
            "bits": _bits(generator, codec, held_out),
            "training bits": _bits(generator, codec, _some(known, len(held_out.labels))),
            "floor": judge.distance(repainted(codec, known.pictures)),
            "step_seconds": report.median_step_seconds,
            "parameters": report.parameters,
            **_drawn(generator, codec, recipe, judge, seed),
        }

    return once(folder / f"{arm}-{seed}", [recipe, arm, seed], make)


def _positions(generator: RasterGenerator, store: MemoryStore) -> float:
    """Mean number of positions of a picture."""
    every = BatchConfig(len(store), drop_caption=0.0, multiple=1)
    return float((generator.batches(store, every).batch(0).segment >= 0).sum()) / len(store)


def _bits(generator: RasterGenerator, codec: Codec, held_out: Digits) -> float:
    """Bits of a held-out picture: of its codes, so that codecs do not compare by them alone."""
    store = MemoryStore([[]] * len(held_out.labels), encoded(codec, held_out.pictures))
    size = max(n for n in range(1, 201) if len(store) % n == 0)
    batches = generator.batches(store, BatchConfig(size, drop_caption=0.0))
    parts = [batches.batch(number) for number in range(len(store) // size)]
    return held_out_bits(generator, parts).per_picture


def _some(digits: Digits, count: int) -> Digits:
    return Digits(digits.pictures[:count], digits.labels[:count])


def _drawn(
    generator: RasterGenerator, codec: Codec, recipe: Recipe, judge: Judge, seed: int
) -> dict[str, float]:
    seeds = [seed * 1_000_003 + picture for picture in range(recipe.drawn)]
    way = decoding(generator, 2 * generator.units, prompt=len(generator.prompt_ids(None)))
    codes = AncestralSampler(recipe.sampling)(way.stepper, [None] * len(seeds), seeds, batch=500)
    if codec.stream is None:
        codes = codes.view(len(codes), *generator.config.grid)
    pictures = to_uint8(codec.decode(codes))
    found = {"frechet": judge.distance(pictures), "valid": 1.0, "opens": 1.0}
    if isinstance(codec, JpegCodec):
        found["valid"] = float(codec.valid(codes).float().mean())
        found["opens"] = float(codec.opens(codes).float().mean())
    return found


def robustness(recipe: Recipe, arm: str, seed: int) -> dict[str, float]:
    """Squared error (greys of 0 to 255) of a codec on pictures like those it was made of, and how
    many times that it is on new digits, on transposed and on inverted ones."""
    known, held_out = sets(recipe)
    codec = make_codec(recipe, arm, known, seed)
    usual = held_out.pictures[held_out.labels < KNOWN]
    new = {
        "new": held_out.pictures[held_out.labels >= KNOWN],
        "transposed": usual.transpose(0, 2, 1, 3),
        "inverted": 255 - usual,
    }

    def error(pictures: np.ndarray) -> float:
        gap = repainted(codec, pictures).astype(np.float64) - pictures
        return float(np.square(gap).mean())

    base = error(usual)
    return {"error": base, **{name: error(some) / base for name, some in new.items()}}


def real_distance(judge: Judge, recipe: Recipe) -> float:
    """How far the training pictures themselves are from the reference."""
    return judge.distance(sets(recipe)[0].pictures)


def log(value: float) -> float:
    """Logarithm, so that differences are ratios."""
    return math.log(max(value, 1e-6))
