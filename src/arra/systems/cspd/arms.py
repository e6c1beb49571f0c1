"""The work of the claim: a target and a draft, what they draw together, and what the target draws
alone."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from arra.experiments.digits import seeds_of
from arra.experiments.once import once
from arra.experiments.rings import Sequences, judged, learn, sequences
from arra.heads.base import Head
from arra.heads.diffusion import DiffusionHead
from arra.heads.gaussian import GaussianHead
from arra.heads.processes import Diffusion
from arra.randomness import seeded
from arra.samplers.speculative.drafts import Budget
from arra.samplers.speculative.vectors import (
    Judged,
    PathConfig,
    SpeculativeVectorSampler,
    VectorStatistics,
)
from arra.settings import SamplingConfig
from arra.systems.cspd.recipe import DIFFUSION, Recipe, Size
from arra.systems.cspd.stepper import SequenceStepper

DRAWN = "drawn.safetensors"
ALONE = "target"
_CHANNELS = 2
_BATCH = 1000
_TERMS = ("log_ratio", "tempered", "log_scale", "target", "draft", "gap")


def make(recipe: Recipe, head: str, size: Size) -> tuple[Sequences, Head]:
    """An untrained model and its head."""
    law: Head
    if head == DIFFUSION:
        process = Diffusion("v", steps=recipe.sampling, ancestral=True, learned=True)
        law = DiffusionHead(
            size.width, _CHANNELS, process, inner=size.inner, repeats=recipe.repeats
        )
    else:
        law = GaussianHead(size.width, _CHANNELS)
    model = Sequences(recipe.law.length, _CHANNELS, size.width, size.depth, size.heads)
    return model, law


def trained(recipe: Recipe, head: str, size: Size, seed: int, quiet: bool) -> SequenceStepper:
    """A model that has learnt the sequences."""
    with seeded(seed):
        model, law = make(recipe, head, size)
    how = recipe.learning if head == DIFFUSION else recipe.regression
    random = torch.Generator().manual_seed(seed)
    learn(model, law, recipe.law, how, random, f"{head}, width {size.width}", quiet)
    return SequenceStepper(model.eval(), law.eval(), recipe.law.length)


def drawn(
    target: SequenceStepper, draft: SequenceStepper, how: PathConfig, count: int, seed: int
) -> tuple[Tensor, VectorStatistics]:
    """(count, L, C) sequences, and what they took."""
    sampler = SpeculativeVectorSampler(SamplingConfig(guidance=1.0), draft, how, traced=True)
    vectors = sampler(target, [None] * count, seeds_of(count, seed), batch=_BATCH)
    return vectors.view(count, target.length, -1), sampler.statistics


def kernel_distance(one: Tensor, other: Tensor, width: float) -> float:
    """MMD of two sets (N, ...) with the kernel exp(-d^2 / 2 width^2), pairs of a sequence with
    itself among them (the V-statistic): above 0 for finite sets of one law, too."""

    def mean(x: Tensor, y: Tensor) -> float:
        squared = torch.cdist(x.flatten(1), y.flatten(1)).square()
        return float(torch.exp(-squared / (2.0 * width**2)).double().mean())

    return max(mean(one, one) + mean(other, other) - 2.0 * mean(one, other), 0.0) ** 0.5


def middle_distance(x: Tensor) -> float:
    """Median distance between the first thousand of a set (N, ...): the kernel's width."""
    return float(torch.pdist(x[:1000].flatten(1)).median())


def told(statistics: VectorStatistics) -> dict[str, Any]:
    """What drawing took, and the medians of what the rule saw."""
    units = max(statistics.pictures, 1)
    found: dict[str, Any] = {
        "acceptance": statistics.acceptance,
        "passes": statistics.passes / units,
        "draft passes": statistics.drafted / units,
        "tries": statistics.tries / max(statistics.replaced, 1),
        "fallbacks": statistics.fallbacks / max(statistics.replaced, 1),
    }
    if statistics.judged:
        found["gap"] = float(torch.cat([one.gap for one in statistics.judged]).mean())
        for name, wanted in (("accepted", True), ("rejected", False)):
            found[name] = {term: _median(statistics.judged, term, wanted) for term in _TERMS}
    return found


def _median(judged: list[Judged], term: str, accepted: bool) -> float:
    values = torch.cat([getattr(one, term)[one.accepted == accepted] for one in judged])
    return float(values.median()) if len(values) else 0.0


def train_arm(recipe: Recipe, arm: str, seed: int, folder: Path, quiet: bool) -> dict[str, Any]:
    """Train target and draft with a head, draw in all ways; the numbers, and drawings beside."""

    def work(place: Path) -> dict[str, Any]:
        began = time.perf_counter()
        target = trained(recipe, arm, recipe.target, 2 * seed, quiet)
        draft = trained(recipe, arm, recipe.draft, 2 * seed + 1, quiet)
        report: dict[str, Any] = {"training seconds": time.perf_counter() - began}
        ways = recipe.samplers(arm)
        alone = replace(next(iter(ways.values())), budget=Budget(0, 0))
        began = time.perf_counter()
        one, statistics = drawn(target, draft, alone, recipe.drawn, 3 * seed)
        report["seconds"] = {ALONE: time.perf_counter() - began}
        other, _ = drawn(target, draft, alone, recipe.drawn, 3 * seed + 1)
        width = middle_distance(one)
        report |= {
            "floor": kernel_distance(one, other, width),
            ALONE: {**told(statistics), **judged(one, recipe.law)},
            "truth": kernel_distance(_truth(recipe, seed), one, width),
            "draft": kernel_distance(_draft_alone(draft, alone, recipe, seed), one, width),
        }
        kept = {ALONE: one}
        for name, how in ways.items():
            began = time.perf_counter()
            made, statistics = drawn(target, draft, how, recipe.drawn, 3 * seed + 2)
            report["seconds"][name] = time.perf_counter() - began
            distance = kernel_distance(made, one, width)
            report[name] = {"mmd": distance, **told(statistics), **judged(made, recipe.law)}
            kept[name] = made
        save_file({name: x.contiguous() for name, x in kept.items()}, place / DRAWN)
        return report

    return once(folder / f"{arm}-{seed}".replace(" ", "-"), [recipe, arm, seed], work)


def _truth(recipe: Recipe, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(1_000_000 + seed)
    return sequences(recipe.law, _CHANNELS // 2, recipe.drawn, random)


def _draft_alone(draft: SequenceStepper, how: PathConfig, recipe: Recipe, seed: int) -> Tensor:
    return drawn(draft, draft, how, recipe.drawn, 3 * seed + 2)[0]
