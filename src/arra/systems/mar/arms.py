"""The arms of the claim: one causal transformer, and the heads that stand on it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from arra.experiments.once import once
from arra.experiments.rings import Sequences, judged, learn, sequences, sliced_distance
from arra.heads.base import Head
from arra.heads.codes import CodeHead
from arra.heads.diffusion import DiffusionHead
from arra.heads.gaussian import GaussianHead
from arra.heads.processes import Diffusion
from arra.randomness import seeded
from arra.systems.mar.recipe import CODES, DIFFUSION, Arm, Recipe

DRAWN = "drawn.safetensors"


def make_model(recipe: Recipe, channels: int) -> Sequences:
    """The untrained transformer."""
    return Sequences(recipe.length, channels, recipe.width, recipe.depth, recipe.heads)


def make_head(arm: Arm, recipe: Recipe, random: torch.Generator) -> Head:
    """The head of an arm; a codebook is fitted to tokens of its own."""
    channels = 2 * arm.rings
    if arm.head == DIFFUSION:
        process = Diffusion("v", steps=recipe.sampling)
        return DiffusionHead(
            recipe.width, channels, process, inner=recipe.inner, repeats=recipe.repeats
        )
    if arm.head != CODES:
        return GaussianHead(recipe.width, channels)
    from sklearn.cluster import KMeans

    count = -(-recipe.fitted // recipe.length)
    tokens = sequences(recipe, arm.rings, count, random).flatten(0, 1)
    found = KMeans(arm.codes, n_init=1, random_state=0).fit(tokens.numpy())
    return CodeHead(recipe.width, torch.from_numpy(found.cluster_centers_).float())


@torch.inference_mode()
def draw(
    model: Sequences, head: Head, recipe: Recipe, count: int, random: torch.Generator
) -> Tensor:
    """(count, L, C) sequences, token by token."""
    tokens = torch.zeros(count, 1, head.channels)
    for _ in range(recipe.length):
        hidden = model(tokens)[:, -1]
        noise = torch.randn(head.draws, count, head.channels, generator=random)
        tokens[:, -1] = head.sample(hidden, noise)
        tokens = torch.cat((tokens, torch.zeros_like(tokens[:, :1])), dim=1)
    return tokens[:, :-1]


def train_arm(arm: Arm, recipe: Recipe, seed: int, folder: Path, quiet: bool) -> dict[str, Any]:
    """Train and measure an arm, unless that was done; the numbers, and the drawings beside them."""

    def make(target: Path) -> dict[str, Any]:
        random = torch.Generator().manual_seed(seed)
        with seeded(seed):
            model = make_model(recipe, 2 * arm.rings)
            head = make_head(arm, recipe, random)
        began = time.perf_counter()
        learn(model, head, recipe, recipe.learning, random, arm.name, quiet)
        seconds = time.perf_counter() - began
        drawn = draw(model.eval(), head.eval(), recipe, recipe.judged, random)
        save_file({"drawn": drawn.contiguous()}, target / DRAWN)
        one, other = (sequences(recipe, arm.rings, recipe.judged, random) for _ in range(2))
        return {
            **judged(drawn, recipe),
            "distance": sliced_distance(drawn, one, recipe.projections, random),
            "floor": sliced_distance(other, one, recipe.projections, random),
            "truth": judged(one, recipe),
            "seconds": seconds,
            "parameters": sum(p.numel() for part in (model, head) for p in part.parameters()),
        }

    place = folder / f"{arm.name.replace(', ', '-').replace(' ', '-')}-{seed}"
    return once(place, [recipe, arm, seed], make)
