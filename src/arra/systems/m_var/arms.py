"""The work of the claim: models of equal parameters, trained and measured scale by scale."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from arra.experiments import digit_codes
from arra.experiments.digit_codes import scale_generator, store_of
from arra.experiments.digits import digits
from arra.experiments.once import once
from arra.generators.scales import ScaleGenerator
from arra.networks.adaln import Block, Memory, Sight
from arra.objectives.laws import NextToken
from arra.orders.pyramid import Pyramid
from arra.settings import BatchConfig, Mixer, ScaleSize
from arra.systems.m_var.recipe import BOTH, FULL, Recipe
from arra.training.loop import train


def parameters(size: ScaleSize) -> int:
    """Weights that are trained in a model of digits."""
    with torch.device("meta"):
        blocks = [_block(size) for _ in range(size.depth)]
    return sum(weight.numel() for block in blocks for weight in block.parameters())


def matched(size: ScaleSize, mixer: Mixer) -> ScaleSize:
    """The size with this mixer and a feed-forward layer that makes it as large as it is with its
    own (to half of a feed-forward unit a block)."""
    other = replace(size, mixer=mixer)
    slope = parameters(replace(other, feed_forward=size.feed_forward + 1)) - parameters(other)
    missing = parameters(size) - parameters(other)
    return replace(other, feed_forward=size.feed_forward + round(missing / slope))


def size_of(recipe: Recipe, mixer: Mixer) -> ScaleSize:
    """Of one arm: M-VAR's is the recipe's, the others are as large."""
    return matched(replace(recipe.size, mixer=BOTH), mixer)


def train_arm(recipe: Recipe, mixer: Mixer, seed: int, folder: Path, quiet: bool) -> dict[str, Any]:
    """Train one model and measure it on held-out digits."""

    def make(target: Path) -> dict[str, Any]:
        known = digits()[0].cropped(recipe.crop)
        generator = scale_generator(size_of(recipe, mixer), seed)
        store = store_of(known, digit_codes.encode(known.pictures))
        batches = generator.batches(store, replace(recipe.batch, seed=seed))
        config = replace(recipe.train, seed=seed)
        report = train(generator, [NextToken()], batches, config, target / "training")
        return {
            **nats_by_scale(generator),
            "step_seconds": report.median_step_seconds,
            "parameters": report.parameters,
        }

    settings = [recipe, mixer, seed]
    return once(folder / f"{mixer}-{seed}", settings, make)


@torch.no_grad()
def nats_by_scale(generator: ScaleGenerator) -> dict[str, Any]:
    """Held-out nats a code, of all scales together ("nats") and of each ("scales")."""
    held_out = digits()[1]
    store = store_of(held_out, digit_codes.encode(held_out.pictures))
    size = max(n for n in range(1, 201) if len(store) % n == 0)
    batches = generator.eval().batches(store, BatchConfig(size, drop_caption=0.0, multiple=1))
    pyramid = generator.pyramid
    total = torch.zeros(len(pyramid.sizes), dtype=torch.float64)
    for number in range(len(store) // size):
        batch = batches.batch(number)
        output = generator(batch)
        nats = F.cross_entropy(output.logits, output.targets, reduction="none").double()
        level = pyramid.levels()[batch.place[batch.target >= 0]]
        total.index_add_(0, level, nats)
    counts = torch.tensor(pyramid.counts)
    found = total / len(store)
    return {
        "nats": float(found.sum() / counts.sum()),
        "scales": (found / counts).tolist(),
    }


def _block(size: ScaleSize) -> Block:
    return Block(
        size.width, size.heads, size.feed_forward, size.normalised, 0.0, size.mixer, size.scan
    )


def seconds_by_length(recipe: Recipe) -> dict[Mixer, dict[int, dict[str, float]]]:
    """Median seconds of the blocks of one picture, by mixer and by cells of the pyramid.

    "training": forward and backward over all scales. "drawing": all scales one after another, with
    what a cache keeps. What a network has learnt does not change how long it takes.
    """
    return {mixer: _seconds(recipe, mixer) for mixer in (FULL, BOTH)}


def _seconds(recipe: Recipe, mixer: Mixer) -> dict[int, dict[str, float]]:
    size = size_of(recipe, mixer)
    blocks = [_block(size) for _ in range(size.depth)]
    found = {}
    for pyramid in map(Pyramid.square, recipe.sides):
        found[pyramid.length] = {
            "training": _median(recipe.timed, _learn, blocks, pyramid),
            "drawing": _median(recipe.timed, _draw, blocks, pyramid),
        }
    return found


def _median(
    times: int, work: Callable[[list[Block], Pyramid], None], blocks: list[Block], pyramid: Pyramid
) -> float:
    seconds = []
    for _ in range(times + 1):
        began = time.perf_counter()
        work(blocks, pyramid)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def _inputs(blocks: list[Block], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = blocks[0].outside.out_features
    return torch.randn(1, length, width), torch.randn(1, width)


def _learn(blocks: list[Block], pyramid: Pyramid) -> None:
    x, condition = _inputs(blocks, pyramid.length)
    if blocks[0].scan is None:
        sight = Sight(pyramid.layout().sees()[None, None])
    else:
        sight = Sight(spans=pyramid.counts)
    for block in blocks:
        x = block(x, condition, sight)
    x.sum().backward()


@torch.no_grad()
def _draw(blocks: list[Block], pyramid: Pyramid) -> None:
    memories = [Memory(keep=None if block.scan is None else 0) for block in blocks]
    for count in pyramid.counts:
        x, condition = _inputs(blocks, count)
        for block, memory in zip(blocks, memories, strict=True):
            x = block(x, condition, None, memory)
