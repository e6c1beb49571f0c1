"""The work of the claim: one model a seed, and its documents completed with every kind of draft."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arra.data.tokenizer import train_text_tokenizer
from arra.experiments.digits import MemoryStore, seeds_of
from arra.experiments.once import once
from arra.generators.raster import RasterGenerator
from arra.objectives.laws import NextToken
from arra.samplers.ancestral import AncestralSampler
from arra.samplers.speculative.ngrams import NgramDrafter
from arra.samplers.speculative.sampler import SpeculativeSampler
from arra.samplers.speculative.trigrams import Trigrams
from arra.settings import BatchConfig, SamplingConfig
from arra.systems.aded.documents import documents
from arra.systems.aded.recipe import PLAIN, Recipe
from arra.training.loop import train

GREEDY = SamplingConfig(guidance=1.0, temperature=0.0)


def make_generator(recipe: Recipe, seed: int) -> RasterGenerator:
    """An untrained model of letters: a document is a picture of one row."""
    tokenizer = train_text_tokenizer(["text"])
    return RasterGenerator.from_scratch(
        tokenizer, recipe.codes, (1, recipe.length), recipe.size, seed=seed
    )


def compare(recipe: Recipe, arm: str, seed: int, folder: Path, quiet: bool) -> dict[str, Any]:
    """Train the model of a seed and complete its documents in all ways (`arm` is "all")."""

    def make(target: Path) -> dict[str, Any]:
        known, held_out = (documents(recipe, seed, held) for held in (False, True))
        generator = make_generator(recipe, seed)
        store = MemoryStore([[]] * len(known), torch.from_numpy(known)[:, None])
        batches = generator.batches(store, replace(recipe.batch, seed=seed))
        config = replace(recipe.train, seed=seed)
        report = train(generator, [NextToken()], batches, config, target / "training")
        generator.eval()
        table = Trigrams.counted([known], recipe.codes)
        given = torch.from_numpy(held_out[:, : recipe.given])
        start = time.perf_counter()
        plain = complete(generator, AncestralSampler(GREEDY), given)
        seconds = time.perf_counter() - start
        found: dict[str, Any] = {
            "parameters": report.parameters,
            "step_seconds": report.median_step_seconds,
            "foretold": foretold(generator, held_out, recipe.given),
            PLAIN: {"seconds": seconds, "units per pass": 1.0, "identical": 1.0},
        }
        for name, drafts in recipe.drafters().items():
            drafter = NgramDrafter(table, drafts)
            sampler = SpeculativeSampler(GREEDY, drafter, budget=recipe.budget)
            found[name] = measured(generator, sampler, given, plain)
        return found

    return once(folder / f"{arm}-{seed}", [recipe, arm, seed], make)


@torch.inference_mode()
def foretold(generator: RasterGenerator, letters: np.ndarray, given: int) -> float:
    """Share of the letters behind the given ones that the model thinks likeliest, told all before:
    0.4 where it knows the language alone, more where it sees a document's habits."""
    store = MemoryStore([[]] * len(letters), torch.from_numpy(letters)[:, None])
    batch = generator.batches(store, BatchConfig(len(letters), drop_caption=0.0)).batch(0)
    output = generator(batch)
    asked = batch.place[batch.target >= 0] >= given
    return float((output.logits.argmax(dim=1) == output.targets)[asked].float().mean())


def complete(generator: RasterGenerator, sampler: Any, given: Tensor) -> Tensor:
    """(N, length) documents of which the first letters are given."""
    captions = [None] * len(given)
    return sampler(generator, captions, seeds_of(len(given), 0), prefix=given, batch=len(given))


def measured(
    generator: RasterGenerator, sampler: SpeculativeSampler, given: Tensor, plain: Tensor
) -> dict[str, float]:
    """What drafting saves, and whether every document is the plain one, letter by letter."""
    start = time.perf_counter()
    drawn = complete(generator, sampler, given)
    seconds, counted = time.perf_counter() - start, sampler.statistics
    return {
        "units per pass": counted.units_per_pass,
        "accepted": counted.accepted / max(counted.drafted, 1),
        "nodes": counted.drafted / counted.passes,
        "identical": float(np.mean((drawn == plain).all(dim=1).tolist())),
        "seconds": seconds,
    }
