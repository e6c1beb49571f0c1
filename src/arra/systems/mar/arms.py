"""The arms of the claim: one causal transformer, and the heads that stand on it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from arra.experiments.once import once
from arra.heads.base import Head
from arra.heads.codes import CodeHead
from arra.heads.diffusion import DiffusionHead
from arra.heads.gaussian import GaussianHead
from arra.heads.processes import Diffusion
from arra.networks.grid_llama import Block, Norm
from arra.networks.rotary import rotary_table
from arra.progress import track
from arra.randomness import seeded
from arra.systems.mar.recipe import CODES, DIFFUSION, Arm, Recipe
from arra.systems.mar.rings import judged, sequences, sliced_distance

DRAWN = "drawn.safetensors"


class Sequences(nn.Module):
    """A causal transformer over tokens of C numbers; the state at a position is about the next."""

    rotary: Tensor

    def __init__(self, recipe: Recipe, channels: int):
        super().__init__()
        self.first = nn.Parameter(torch.zeros(recipe.width))
        self.inputs = nn.Linear(channels, recipe.width)
        self.place = nn.Parameter(0.02 * torch.randn(recipe.length, recipe.width))
        self.blocks = nn.ModuleList(
            Block(recipe.width, recipe.heads, 4 * recipe.width) for _ in range(recipe.depth)
        )
        self.norm = Norm(recipe.width)
        table = rotary_table((1, recipe.length), recipe.width // recipe.heads, 100.0)
        self.register_buffer("rotary", table[1:], persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, L, D) states, that at position i of the tokens (N, L, C) before i; the last token is
        not read."""
        before = self.inputs(tokens[:, :-1])
        x = torch.cat((self.first.expand(len(tokens), 1, -1), before), dim=1)
        x = x + self.place[: x.shape[1]]
        for block in self.blocks:
            x = block(x, self.rotary[None, : x.shape[1]], None)
        return self.norm(x)


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
            model = Sequences(recipe, 2 * arm.rings)
            head = make_head(arm, recipe, random)
        began = time.perf_counter()
        train(model, head, arm, recipe, random, quiet)
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


def train(
    model: Sequences, head: Head, arm: Arm, recipe: Recipe, random: torch.Generator, quiet: bool
) -> None:
    """Adam with a learning rate that falls linearly to 0, on new sequences in every step."""
    parameters = [*model.parameters(), *head.parameters()]
    optimiser = torch.optim.Adam(parameters, recipe.learning_rate, fused=True)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, recipe.steps)
    with track(arm.name, recipe.steps, quiet=quiet) as task:
        for _ in range(recipe.steps):
            tokens = sequences(recipe, arm.rings, recipe.batch, random)
            loss = head.loss(tokens.flatten(0, 1), model(tokens).flatten(0, 1), random=random)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            falling.step()
            task.advance()
