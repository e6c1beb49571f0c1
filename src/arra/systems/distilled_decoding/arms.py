"""The work of the claim: pairs of noise and grids, a student of them, and what it draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arra.experiments.digits import MemoryStore
from arra.experiments.once import once
from arra.generators.grid import GridConfig
from arra.generators.grid_student import GridStudent, GridStudentConfig
from arra.generators.student_batches import NOISE
from arra.objectives.laws import NextToken
from arra.samplers.flow import FlowSampler, TokenFlow
from arra.settings import GridOptions, SamplingConfig
from arra.systems.distilled_decoding.recipe import DISTILLED, Recipe
from arra.systems.distilled_decoding.rule import (
    CELLS,
    CODES,
    DIMENSIONS,
    SIDE,
    RuleStepper,
    code_vectors,
    distance,
    independent,
)
from arra.training.loop import train

PLAIN = SamplingConfig(guidance=1.0)
_TOGETHER = 2000  # rows that stay in a processor's cache


def noise_of(count: int, seed: int) -> Tensor:
    """(count, 16, 4) float32."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, CELLS, DIMENSIONS, generator=random)


def grids_of(noise: Tensor, vectors: Tensor, steps: int) -> Tensor:
    """(N, 16) int64 the grids that the rule draws from noise (N, 16, 4), cell by cell."""
    sampler = FlowSampler(vectors, PLAIN, TokenFlow(steps))
    parts = [
        sampler.follow(RuleStepper(), [None] * len(part), part) for part in noise.split(_TOGETHER)
    ]
    return torch.cat(parts)


def make_student(recipe: Recipe, vectors: Tensor, seed: int) -> GridStudent:
    """An untrained student; the rule has no weights to begin with."""
    options = GridOptions(condition="class")
    teacher = GridConfig((SIDE, SIDE), CODES, size=recipe.size, options=options)
    config = GridStudentConfig(
        teacher=teacher,
        dimensions=DIMENSIONS,
        starts=recipe.starts,
        steps=len(recipe.starts),
        sampling=PLAIN,
    )
    made = GridStudent.seeded(config, seed)
    made.vectors.copy_(vectors)
    return made


@torch.inference_mode()
def mapped(student: GridStudent, noise: Tensor, steps: int) -> Tensor:
    """(N, 16) int64 what a student makes of noise (N, 16, 4) in so many steps."""
    found = []
    for part in noise.split(_TOGETHER):
        cache = student.begin([student.prompt_ids(None)] * len(part), lambda *_, made=part: made)
        for _ in range(steps):
            student.unit(cache, lambda *_: None, 1.0, 1.0)
        found.append(student.drawn(cache))
    return torch.cat(found)


@torch.inference_mode()
def sampled(student: GridStudent, noise: Tensor, seed: int) -> Tensor:
    """(N, 16) int64 cells drawn each by itself from what a student says of it in one step."""
    random, found = torch.Generator().manual_seed(seed), []
    for part in noise.split(_TOGETHER):
        cache = student.begin([student.prompt_ids(None)] * len(part), lambda *_, made=part: made)
        law = student.said(cache, 0).softmax(dim=-1).flatten(0, 1)
        found.append(torch.multinomial(law, 1, generator=random).view(len(part), -1))
    return torch.cat(found)


def train_arm(recipe: Recipe, arm: str, seed: int, folder: Path, quiet: bool) -> dict[str, Any]:
    """Train one student and compare what it draws with the rule."""

    def make(target: Path) -> dict[str, Any]:
        vectors = code_vectors(seed)
        noise, held_out = noise_of(recipe.pairs, 2 * seed), noise_of(recipe.drawn, 2 * seed + 1)
        known, true = (grids_of(e, vectors, recipe.flow_steps) for e in (noise, held_out))
        if arm != DISTILLED:
            noise = noise.roll(1, dims=0)
        store = MemoryStore([[]] * len(noise), known.view(-1, SIDE, SIDE), {NOISE: noise})
        student = make_student(recipe, vectors, seed)
        batches = student.batches(store, replace(recipe.batch, seed=seed))
        config = replace(recipe.train, seed=seed)
        report = train(student, [NextToken()], batches, config, target / "training")
        one, two = (mapped(student, held_out, steps) for steps in (1, 2))
        return {
            "one": distance(one),
            "two": distance(two),
            "sampled": distance(sampled(student, held_out, seed)),
            "teacher": distance(true),
            "independent": distance(independent(known, recipe.drawn, seed)),
            "same one": _same(one, true),
            "same two": _same(two, true),
            "step_seconds": report.median_step_seconds,
            "parameters": report.parameters,
        }

    return once(folder / f"{arm}-{seed}".replace(" ", "-"), [recipe, arm, seed], make)


def _same(one: Tensor, other: Tensor) -> float:
    """Share of cells (N, 16) that are the same."""
    return float((one == other).float().mean())
