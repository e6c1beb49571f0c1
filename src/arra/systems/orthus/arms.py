"""The work of the claim: a model of codes, converted or trained on, and what it draws and reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from arra.experiments import captioned_digits
from arra.experiments.digit_vectors import draw, learn
from arra.experiments.digits import Judge, digits, in_turn, judged, seeds_of
from arra.experiments.once import once
from arra.generators.language_batches import CodesBothOrders
from arra.generators.raster import RasterGenerator
from arra.generators.raster_vectors import RasterVectorGenerator
from arra.heads.base import Head
from arra.networks.denoiser import Denoiser
from arra.networks.soft_codes import chosen_temperature
from arra.objectives.laws import NextToken, NextVector
from arra.randomness import seeded
from arra.samplers.ancestral import AncestralSampler
from arra.settings import SamplingConfig
from arra.systems.orthus.recipe import BASE, CODES, MEAN, Recipe
from arra.training.config import TrainConfig
from arra.training.loop import train

Report = dict[str, Any]
MODEL = "model"


class MeanHead(Head):
    """The mean of the next vector, by the diffusion head's own network: what a loss of squared
    errors learns. There is nothing to draw."""

    draws = 1

    def __init__(self, width: int, channels: int, inner: int, depth: int):
        super().__init__()
        self.channels = channels
        self.network = Denoiser(channels, channels, width, inner, depth)

    def _mean(self, hidden: Tensor) -> Tensor:
        nothing = hidden.new_zeros(len(hidden), self.channels)
        return self.network(nothing, nothing[:, 0], hidden)

    def losses(
        self, target: Tensor, hidden: Tensor, random: torch.Generator | None = None
    ) -> Tensor:
        return (self._mean(hidden) - target).square().mean(dim=1)

    def sample(
        self, hidden: Tensor, noise: Tensor, scale: float = 1.0, temperature: float = 1.0
    ) -> Tensor:
        return self._mean(hidden[: noise.shape[1]])


def base_of(recipe: Recipe, seed: int) -> RasterGenerator:
    """The model of codes with its first weights."""
    return RasterGenerator.from_scratch(
        captioned_digits.tokenizer(),
        captioned_digits.CODES,
        captioned_digits.GRID,
        recipe.size,
        seed=seed,
        appearance=captioned_digits.codebook(),
    )


def train_codes(
    host: RasterGenerator, recipe: Recipe, config: TrainConfig, seed: int, folder: Path
) -> None:
    """Train a model of codes in place, in both directions."""
    assert host.tokenizer is not None
    known, _ = digits()
    codes = captioned_digits.codes_of(captioned_digits.GREYS.of(known.pictures))
    batches = CodesBothOrders(
        captioned_digits.captioned(known, host.tokenizer, codes),
        host.config.vocabulary,
        replace(recipe.batch, seed=seed),
        host.tokenizer.eos_token_id,
    )
    train(host, [NextToken()], batches, replace(config, seed=seed), folder)


def converted(host: RasterGenerator, recipe: Recipe, arm: str, seed: int) -> RasterVectorGenerator:
    """The host as a model of vectors."""
    known = captioned_digits.GREYS.of(digits()[0].pictures).flatten(0, 2)
    table = captioned_digits.codebook()
    made = RasterVectorGenerator.from_codes(
        host,
        table,
        chosen_temperature(known, table, recipe.certainty),
        recipe.options,
        seed=seed,
        scale=recipe.scale,
    )
    if arm == MEAN:
        options = recipe.options
        with seeded(seed):
            made.head = MeanHead(made.width, made.dimensions, options.inner, options.inner_depth)
    return made


def tune(made: RasterVectorGenerator, recipe: Recipe, whole: bool, seed: int, folder: Path) -> None:
    """Train the new parts (the codebook, the table of embeddings and the head), or everything."""
    assert made.tokenizer is not None
    new = (made.reader, made.head, made.lm.get_input_embeddings())
    made.requires_grad_(whole)
    for module in new:
        module.requires_grad_(True)
    known, _ = digits()
    store = captioned_digits.captioned(
        known, made.tokenizer, captioned_digits.GREYS.of(known.pictures)
    )
    config = recipe.whole if whole else recipe.tuned
    learn(made, store, recipe.batch, config, seed, folder, (NextToken(), NextVector()))


def train_base(
    recipe: Recipe, judge: Judge, arm: str, seed: int, folder: Path, quiet: bool
) -> Report:
    """Train the model of codes that all arms of a seed begin with, and judge it."""

    def make(target: Path) -> Report:
        host = base_of(recipe, seed)
        train_codes(host, recipe, recipe.base, seed, target / "training")
        host.eval().save_pretrained(target / MODEL)
        return judged_codes(host, recipe, judge, seed)

    return once(folder / f"{arm}-{seed}", [recipe, arm, seed], make)


def train_arm(
    recipe: Recipe, judge: Judge, arm: str, seed: int, folder: Path, quiet: bool
) -> Report:
    """Go on from the model of codes in one way, and judge what becomes of it."""

    def make(target: Path) -> Report:
        before = train_base(recipe, judge, BASE, seed, folder, quiet)
        host = RasterGenerator.from_pretrained(folder / f"{BASE}-{seed}" / MODEL)
        if arm == CODES:
            more = replace(recipe.whole, steps=recipe.whole.steps + recipe.tuned.steps)
            train_codes(host.train(), recipe, more, seed + 1000, target / "more")
            return {"before": before, **judged_codes(host.eval(), recipe, judge, seed)}
        made = converted(host, recipe, arm, seed)
        tune(made.train(), recipe, False, seed + 1000, target / "tuned")
        tuned = judged_vectors(made.eval(), recipe, judge, seed)
        tune(made.train(), recipe, True, seed + 2000, target / "whole")
        after = judged_vectors(made.eval(), recipe, judge, seed)
        made.save_pretrained(target / MODEL)
        return {"before": before, "tuned": tuned, **after}

    return once(folder / f"{arm}-{seed}", [recipe, arm, seed], make)


def judged_vectors(made: RasterVectorGenerator, recipe: Recipe, judge: Judge, seed: int) -> Report:
    """What a model of vectors draws, and what it says of held-out digits."""
    _, held_out = digits()
    said = made.describe(captioned_digits.GREYS.of(held_out.pictures), most=4)
    drawn = draw(made, in_turn(recipe.drawn, captioned_digits.CAPTIONS), seed)
    return {
        **judged(judge, captioned_digits.GREYS.pictures(drawn)),
        "read right": captioned_digits.read_well(said, held_out),
    }


def judged_codes(host: RasterGenerator, recipe: Recipe, judge: Judge, seed: int) -> Report:
    """The same of a model of codes; what it draws are the codes' vectors."""
    _, held_out = digits()
    codes = captioned_digits.codes_of(captioned_digits.GREYS.of(held_out.pictures))
    said = describe_codes(host, codes.flatten(1), most=4)
    sampler, count = AncestralSampler(SamplingConfig(1.0)), recipe.drawn
    captions, seeds = in_turn(count, captioned_digits.CAPTIONS), seeds_of(count, seed)
    drawn = F.embedding(sampler(host, captions, seeds, batch=500), captioned_digits.codebook())
    return {
        **judged(judge, captioned_digits.GREYS.pictures(drawn.unflatten(1, captioned_digits.GRID))),
        "read right": captioned_digits.read_well(said, held_out),
    }


@torch.inference_mode()
def describe_codes(host: RasterGenerator, codes: Tensor, most: int) -> list[str]:
    """What a model of codes says of pictures (N, n), the likeliest word after the likeliest."""
    assert host.tokenizer is not None
    vocabulary, end = host.config.vocabulary, host.tokenizer.eos_token_id
    before = torch.tensor(vocabulary.prompt(())).expand(len(codes), -1)
    after = torch.full((len(codes), 1), vocabulary.end)
    ids = torch.cat((before, codes + vocabulary.offset, after), dim=1)
    length = ids.shape[1]
    for _ in range(most):
        said = host.text_logits(ids)[:, -1, : vocabulary.offset].argmax(dim=1, keepdim=True)
        ids = torch.cat((ids, said), dim=1)
    found = []
    for row in ids[:, length:].tolist():
        words = row[: row.index(end)] if end in row else row
        found.append(str(host.tokenizer.decode(words)))
    return found
