"""Two teachers of handwritten digits: one draws squares of pixels in turn, the other scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arra.experiments.digit_codes import (
    LEVELS,
    SIDE,
    Words,
    decode,
    encode,
    greys,
    pictures_of,
    residual_scales,
    scale_generator,
    store_of,
    word_ids,
)
from arra.experiments.digit_grids import LabelStepper
from arra.experiments.digits import WORDS, Digits, MemoryStore
from arra.generators.base import CodeGenerator
from arra.generators.grid import GridConfig, GridGenerator
from arra.generators.scales import ScaleGenerator
from arra.orders.pyramid import Pyramid
from arra.settings import GridOptions
from arra.systems.distilled_decoding.recipe import GRID, DigitRecipe

PATCH, CROP = 2, 1
SQUARES = (SIDE // PATCH, SIDE // PATCH)


@dataclass(frozen=True)
class Teacher:
    """A trained model of digits, and what its codes are."""

    generator: CodeGenerator
    vectors: Tensor
    """(V, d), of the codes."""
    ids: dict[str, list[int]]
    """Of each word, as the generator's conditions."""
    asked: Callable[[Any], Any]
    """The teacher, or a student of it, asked for digits by their words."""
    painted: Callable[[Tensor], np.ndarray]
    """(N, 8, 8, 3) uint8 of codes (N, L)."""
    crop: int
    """Pixels by which the digits that it learns are moved."""


class StudentWords(Words):
    """A student of a next-scale generator: its condition has a place of its own."""

    def prompt_ids(self, caption: str | None) -> list[int]:
        """The id of a word, and that place."""
        return self.generator.prompt(super().prompt_ids(caption))


def patches(pictures: np.ndarray) -> Tensor:
    """(N, 16, 4) in [-1, 1]: squares of pixels of digits (N, 8, 8, 3) uint8, in raster order."""
    grey = greys(pictures).float() * (2.0 / (LEVELS - 1)) - 1.0
    squares = grey.unflatten(2, (-1, PATCH)).unflatten(1, (-1, PATCH)).transpose(2, 3)
    return squares.flatten(3).flatten(1, 2)


def painted(codes: Tensor, vectors: Tensor) -> np.ndarray:
    """(N, 8, 8, 3) uint8 of codes (N, 16)."""
    squares = vectors[codes].unflatten(1, SQUARES).unflatten(-1, (PATCH, PATCH)).transpose(2, 3)
    grey = squares.flatten(3).flatten(1, 2)
    return pictures_of(((grey + 1.0) * ((LEVELS - 1) / 2)).round().clamp(0, LEVELS - 1).long())


def codebook(known: Digits, count: int) -> Tensor:
    """(count, 4) float32 the means that k-means finds of all squares."""
    from sklearn.cluster import KMeans

    found = KMeans(count, n_init=1, random_state=0).fit(patches(known.pictures).flatten(0, 1))
    return torch.from_numpy(found.cluster_centers_).float()


def untrained(recipe: DigitRecipe, kind: str, known: Digits) -> tuple[Teacher, MemoryStore]:
    """The teacher of a kind, and these digits as its codes."""
    return (_squares if kind == GRID else _scales)(recipe, known)


def _squares(recipe: DigitRecipe, known: Digits) -> tuple[Teacher, MemoryStore]:
    """4 x 4 squares of 2 x 2 pixels that k-means found, one after the other."""
    vectors = codebook(known, recipe.codes)
    options = GridOptions(condition="class")
    config = GridConfig(SQUARES, recipe.codes, text=len(WORDS), size=recipe.grid, options=options)
    cropped = known.cropped(CROP)  # squares of what is moved are other codes
    codes = torch.cdist(patches(cropped.pictures), vectors[None]).argmin(dim=-1)
    ids = {word: [number] for number, word in enumerate(WORDS)}
    teacher = Teacher(
        GridGenerator.seeded(config, 0),
        vectors,
        ids,
        LabelStepper,
        lambda drawn: painted(drawn, vectors),
        CROP,
    )
    return teacher, store_of(cropped, codes.view(-1, *SQUARES), ids)


def _scales(recipe: DigitRecipe, known: Digits) -> tuple[Teacher, MemoryStore]:
    """Pixels scale by scale, as codes without loss."""
    pyramid = Pyramid.square(recipe.sides)
    vectors = residual_scales().codebook.detach().clone()
    generator = scale_generator(recipe.scales, 0, pyramid)

    def asked(model: Any) -> Any:
        return Words(model) if isinstance(model, ScaleGenerator) else StudentWords(model)

    def drawn_as(codes: Tensor) -> np.ndarray:
        return decode(codes, pyramid)

    teacher = Teacher(generator, vectors, word_ids(), asked, drawn_as, crop=0)
    return teacher, store_of(known, encode(known.pictures, pyramid))
