"""Sequences of vectors whose law is known, points that walk around rings with a little noise, and a
small causal transformer over them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arra.heads.base import Head
from arra.networks.grid_llama import Block, Norm
from arra.networks.rotary import rotary_table
from arra.progress import track


@dataclass(frozen=True)
class RingLaw:
    """How points walk."""

    length: int = 4
    """Tokens of a sequence."""
    modes: int = 8
    """Points on a ring; the next token's is a neighbour of this one's."""
    deviation: float = 0.08
    """Of the noise around a point; the ring has radius 1."""
    near: float = 0.3
    """Distance within which a token counts as at a point."""


class Sequences(nn.Module):
    """A causal transformer over tokens of C numbers; the state at a position is about the next."""

    rotary: Tensor

    def __init__(self, length: int, channels: int, width: int, depth: int, heads: int):
        super().__init__()
        self.first = nn.Parameter(torch.zeros(width))
        self.inputs = nn.Linear(channels, width)
        self.place = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width, heads, 4 * width) for _ in range(depth))
        self.norm = Norm(width)
        table = rotary_table((1, length), width // heads, 100.0)
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


@dataclass(frozen=True)
class Learning:
    """How sequences are learnt."""

    steps: int = 1200
    batch: int = 256
    learning_rate: float = 2e-3
    """Of Adam; it falls linearly to 0."""


def learn(
    model: Sequences,
    head: Head,
    law: RingLaw,
    how: Learning,
    random: torch.Generator,
    label: str = "train",
    quiet: bool = True,
) -> None:
    """Train a model and its head in place, on new sequences in every step."""
    rings, parameters = head.channels // 2, [*model.parameters(), *head.parameters()]
    optimiser = torch.optim.Adam(parameters, how.learning_rate, fused=True)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, how.steps)
    with track(label, how.steps, quiet=quiet) as task:
        for _ in range(how.steps):
            tokens = sequences(law, rings, how.batch, random)
            loss = head.loss(tokens.flatten(0, 1), model(tokens).flatten(0, 1), random=random)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            falling.step()
            task.advance()


def sequences(law: RingLaw, rings: int, count: int, random: torch.Generator) -> Tensor:
    """(count, L, 2 rings): on every ring a first point of all, then a neighbour of the last one,
    independently of the other rings; each with Gaussian noise."""
    shape = (count, law.length, rings)
    step = 2 * torch.randint(2, shape, generator=random) - 1
    step[:, 0] = torch.randint(law.modes, (count, rings), generator=random)
    at = step.cumsum(dim=1)
    noise = torch.randn(*shape, 2, generator=random)
    return (_points(law)[at % law.modes] + law.deviation * noise).flatten(2)


def _points(law: RingLaw) -> Tensor:
    angle = 2 * math.pi * torch.arange(law.modes) / law.modes
    return torch.stack((angle.cos(), angle.sin()), dim=1)


def nearest(parts: Tensor, law: RingLaw) -> tuple[Tensor, Tensor]:
    """Distance of parts (..., 2) from the point of a ring that is nearest, and which that is."""
    distance, at = (parts[..., None, :] - _points(law)).norm(dim=-1).min(dim=-1)
    return distance, at


def judged(drawn: Tensor, law: RingLaw) -> dict[str, float]:
    """Shares of what was drawn (N, L, 2 rings): of sequences all of which is at points, each next
    one a neighbour; and of parts (a ring of a token) that are so."""
    parts = drawn.unflatten(2, (-1, 2))
    distance, at = nearest(parts, law)
    step = (at[:, 1:] - at[:, :-1]) % law.modes
    good = distance < law.near
    good[:, 1:] &= (step == 1) | (step == law.modes - 1)
    return {
        "valid": float(good.flatten(1).all(dim=1).float().mean()),
        "parts": float(good.float().mean()),
    }


def sliced_distance(one: Tensor, other: Tensor, projections: int, random: torch.Generator) -> float:
    """Mean 1-Wasserstein distance of two sets (N, ...) along random directions."""
    one, other = one.flatten(1).double(), other.flatten(1).double()
    way = torch.randn(one.shape[1], projections, generator=random, dtype=torch.float64)
    way = way / way.norm(dim=0)
    first, second = (x @ way for x in (one, other))
    return float((first.sort(dim=0).values - second.sort(dim=0).values).abs().mean())
