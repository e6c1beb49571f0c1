"""The picture of the page: digits by a teacher, and by its student from the same noise.

Digits are 4 x 4 codes, squares of 2 x 2 pixels that k-means found: their vectors are the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arra.experiments.digit_codes import LEVELS, SIDE, greys, pictures_of
from arra.experiments.digit_grids import LabelStepper
from arra.experiments.digits import WORDS, Digits, MemoryStore, digits, in_turn, judged, train_judge
from arra.experiments.once import once
from arra.experiments.plotting import sheet
from arra.generators.grid import GridConfig, GridGenerator
from arra.generators.student_batches import NOISE
from arra.generators.students import student_of
from arra.objectives.laws import NextToken, own_objectives
from arra.samplers.flow import FlowSampler, NoiseSampler, picture_noise
from arra.settings import GridOptions, SamplingConfig
from arra.systems.distilled_decoding.recipe import DigitRecipe
from arra.training.loop import train

PATCH = 2
GRID = (SIDE // PATCH, SIDE // PATCH)
SAMPLING = SamplingConfig(guidance=1.5)


def patches(pictures: np.ndarray) -> Tensor:
    """(N, 16, 4) in [-1, 1]: squares of pixels of digits (N, 8, 8, 3) uint8, in raster order."""
    grey = greys(pictures).float() * (2.0 / (LEVELS - 1)) - 1.0
    squares = grey.unflatten(2, (-1, PATCH)).unflatten(1, (-1, PATCH)).transpose(2, 3)
    return squares.flatten(3).flatten(1, 2)


def painted(codes: Tensor, vectors: Tensor) -> np.ndarray:
    """(N, 8, 8, 3) uint8 of codes (N, 16)."""
    squares = vectors[codes].unflatten(1, GRID).unflatten(-1, (PATCH, PATCH)).transpose(2, 3)
    grey = squares.flatten(3).flatten(1, 2)
    return pictures_of(((grey + 1.0) * ((LEVELS - 1) / 2)).round().clamp(0, LEVELS - 1).long())


def codebook(known: Digits, count: int) -> Tensor:
    """(count, 4) float32 the means that k-means finds of all squares."""
    from sklearn.cluster import KMeans

    found = KMeans(count, n_init=1, random_state=0).fit(patches(known.pictures).flatten(0, 1))
    return torch.from_numpy(found.cluster_centers_).float()


def _codes(pictures: np.ndarray, vectors: Tensor) -> Tensor:
    """(N, 16) int64."""
    return torch.cdist(patches(pictures), vectors[None]).argmin(dim=-1)


def _drawn(model: Any, sampler: Any, words: Sequence[str], seeds: Sequence[int]) -> Tensor:
    return sampler(LabelStepper(model), words, seeds, batch=500).flatten(1)


def distilled(recipe: DigitRecipe, folder: Path) -> dict[str, Any]:
    """Train teacher and student, draw by both; a judge's numbers, and pictures beside it."""

    def make(target: Path) -> dict[str, Any]:
        known, held_out = digits()
        vectors = codebook(known, recipe.codes)
        options = GridOptions(condition="class")
        config = GridConfig(GRID, recipe.codes, text=len(WORDS), size=recipe.size, options=options)
        teacher, cropped = GridGenerator.seeded(config, 0), known.cropped(1)
        labels = [[int(label)] for label in cropped.labels]
        store = MemoryStore(labels, _codes(cropped.pictures, vectors).view(-1, *GRID))
        batches = teacher.batches(store, replace(recipe.batch, drop_caption=0.1))
        train(teacher, [NextToken()], batches, recipe.teacher, target / "teacher")
        flow = FlowSampler(vectors, SAMPLING)
        words, seeds = in_turn(recipe.pairs), [(1 << 40) + n for n in range(recipe.pairs)]
        noise = picture_noise(seeds, GRID[0] * GRID[1], vectors.shape[1])
        codes = _drawn(teacher, flow, words, seeds).view(-1, *GRID)
        pairs = MemoryStore([[WORDS.index(word)] for word in words], codes, {NOISE: noise})
        student = student_of(teacher, vectors, SAMPLING, recipe.options, seed=0)
        tries = student.batches(pairs, recipe.batch)
        train(student, own_objectives(student), tries, recipe.student, target / "student")
        words, seeds = in_turn(recipe.drawn), list(range(recipe.drawn))
        found = {"teacher, 16 steps": _drawn(teacher, flow, words, seeds)}
        for steps in (1, 2):
            name = f"student, {steps} step{'s' if steps > 1 else ''}"
            found[name] = _drawn(student.paced(steps=steps), NoiseSampler(), words, seeds)
        pictures = {name: painted(codes, vectors) for name, codes in found.items()}
        for number, drawn in enumerate(pictures.values()):
            np.save(target / f"drawn-{number}.npy", drawn)
        judge, truth = train_judge(known, held_out, 1), found["teacher, 16 steps"]
        return {
            name: {
                **judged(judge, pictures[name]),
                "teacher's codes": float((codes == truth).float().mean()),
            }
            for name, codes in found.items()
        }

    return once(folder / "digits", [recipe, "digits"], make)


def plot(folder: Path, path: str | Path, recipe: DigitRecipe | None = None) -> dict[str, Any]:
    """Write the sheet as PNG, two of each digit by teacher and student; the judge's numbers."""
    report = distilled(recipe or DigitRecipe(), folder)
    sheet(
        [
            (name.replace(", ", "\n"), np.load(folder / "digits" / f"drawn-{number}.npy")[:20])
            for number, name in enumerate(report)
        ],
        path,
    )
    return report
