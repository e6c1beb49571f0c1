"""The work of the claim: a target and a drafter of it for each seed, and all ways to draw."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arra.codecs.patches import PatchCodec, PatchConfig
from arra.experiments.captioned_digits import CAPTIONS, GRID, captioned, tokenizer
from arra.experiments.digits import (
    Digits,
    MemoryStore,
    digits,
    floors,
    in_turn,
    judged,
    seeds_of,
    train_judge,
)
from arra.experiments.once import once
from arra.generators.features import FeatureStudent
from arra.generators.raster import RasterGenerator
from arra.objectives.features import feature_objectives
from arra.objectives.laws import NextToken
from arra.pixels import to_unit
from arra.samplers.ancestral import AncestralSampler
from arra.samplers.speculative.drafts import Budget
from arra.samplers.speculative.feature_trees import DynamicFeatureDrafter, StaticFeatureDrafter
from arra.samplers.speculative.features import FeatureDrafter
from arra.samplers.speculative.observed import Observed
from arra.samplers.speculative.rules import Relaxed, Rule, Strict, nearest
from arra.samplers.speculative.sampler import SpeculativeSampler
from arra.samplers.speculative.trees import TreeShape
from arra.settings import SamplingConfig
from arra.systems.lantern.recipe import PLAIN, RANDOM, Arm, Recipe
from arra.text_to_image import paint
from arra.training.loop import train

SAMPLING = SamplingConfig(guidance=1.0)


def compare(recipe: Recipe, arm: str, seed: int, folder: Path, quiet: bool) -> dict[str, Any]:
    """Train the target and the drafter of a seed and draw in all ways (`arm` is "all")."""

    def make(target: Path) -> dict[str, Any]:
        known, held_out = digits()
        codec = PatchCodec.fit(known.pictures, PatchConfig(2, recipe.codes))
        store = flat_store(codec, known.cropped(1), recipe.spread, seed)
        generator = make_generator(recipe, codec, seed)
        batch, settings = replace(recipe.batch, seed=seed), replace(recipe.train, seed=seed)
        learnt = train(
            generator, [NextToken()], generator.batches(store, batch), settings, target / "target"
        )
        student = FeatureStudent.of(generator, seed=seed)
        settings = replace(recipe.learn, seed=seed)
        drafts = train(
            student, feature_objectives(), student.batches(store, batch), settings, target / "draft"
        )
        judge = train_judge(known, held_out, 1)
        way = Drawing(recipe, generator, student, codec, seed)
        found: dict[str, Any] = {
            "parameters": learnt.parameters,
            "drafter": drafts.parameters,
            "real": floors(judge, known, held_out, recipe.drawn),
        }
        for name, drawn in way.all().items():
            pictures = drawn.pop("pictures")
            np.save(target / file_of(name), pictures)
            found[name] = {**drawn, **judged(judge, pictures)}
        return found

    return once(folder / f"{arm}-{seed}", [recipe, arm, seed], make)


def file_of(arm: str) -> str:
    """In a seed's folder, that of the pictures of an arm."""
    return arm.replace(", ", "-").replace(" ", "-") + ".npy"


def make_generator(recipe: Recipe, codec: PatchCodec, seed: int) -> RasterGenerator:
    """An untrained target, told the digit in two words."""
    return RasterGenerator.from_scratch(
        tokenizer(), recipe.codes, GRID, recipe.size, seed=seed, appearance=codec.appearance()
    )


@torch.no_grad()
def flat_store(codec: PatchCodec, known: Digits, spread: float, seed: int) -> MemoryStore:
    """Digits with captions, the code of every square drawn at random of those that are about as
    near as the nearest: laws of the next code are as flat as those of large codebooks."""
    squares = codec.squares(to_unit(known.pictures)).permute(0, 2, 3, 1)
    random, found = torch.Generator().manual_seed(seed), []
    for part in squares.split(2000):
        far = torch.cdist(part.flatten(0, 2), codec.table)
        near = far <= far.amin(dim=1, keepdim=True) + spread
        found.append(torch.multinomial(near.float(), 1, generator=random).view(part.shape[:3]))
    return captioned(known, tokenizer(), torch.cat(found))


def lenders(recipe: Recipe, arm: Arm, codec: PatchCodec, seed: int) -> Tensor:
    """(V, k): who may lend to each code."""
    if arm.lenders == RANDOM:
        random = torch.Generator().manual_seed(seed)
        chances = torch.rand(recipe.codes, recipe.codes, generator=random).fill_diagonal_(-1.0)
        return chances.argsort(dim=1, descending=True)[:, : recipe.neighbours]
    return nearest(codec.code_vectors(), recipe.neighbours)


def rule_of(recipe: Recipe, arm: Arm, codec: PatchCodec, seed: int) -> Rule:
    """How an arm decides."""
    if arm.lenders is None:
        return Strict()
    return Relaxed(lenders(recipe, arm, codec, seed), arm.delta, arm.ratio)


class Drawing:
    """One target with its drafter, and all ways to draw of it."""

    def __init__(
        self,
        recipe: Recipe,
        generator: RasterGenerator,
        student: FeatureStudent,
        codec: PatchCodec,
        seed: int,
    ):
        self.recipe, self.generator, self.codec, self.seed = recipe, generator, codec, seed
        ends, chain = (student.network, student.tables), TreeShape.chain(recipe.depth)
        self.drafters: dict[str, FeatureDrafter] = {
            "dynamic": DynamicFeatureDrafter(*ends, recipe.depth, recipe.width),
            "chain": StaticFeatureDrafter(*ends, chain),
        }
        self.captions = in_turn(recipe.drawn, CAPTIONS)
        self.seeds = seeds_of(recipe.drawn, seed)

    def all(self) -> dict[str, dict[str, Any]]:
        """What every way draws, and what it takes."""
        sampler = AncestralSampler(SAMPLING)
        found = {PLAIN: {**self._drawn(sampler), "units per pass": 1.0, "variation": 0.0}}
        for arm in self.recipe.arms:
            found[arm.name] = self.by(arm)
        return found

    def by(self, arm: Arm) -> dict[str, Any]:
        """Drawn by the rule of an arm."""
        recipe, rule = self.recipe, rule_of(self.recipe, arm, self.codec, self.seed)
        drafter, units = self.drafters[arm.tree], recipe.drawn * self.generator.units
        observed = Observed(rule, max(units // recipe.looked_at, 1), drafter.draws)
        budget = Budget(recipe.nodes, recipe.depth)
        sampler = SpeculativeSampler(SAMPLING, drafter, observed, budget)
        drawn, counted = self._drawn(sampler), sampler.statistics
        return {
            **drawn,
            "units per pass": counted.units_per_pass,
            "accepted": counted.accepted / counted.drafted,
            "variation": observed.variation(),
        }

    def _drawn(self, sampler: Any) -> dict[str, Any]:
        start = time.perf_counter()
        codes = sampler(self.generator, self.captions, self.seeds, batch=len(self.seeds))
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "pictures": paint(self.codec, codes.view(-1, *GRID))}
