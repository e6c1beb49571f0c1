"""Sequences whose law is known: points that walk around rings, with a little noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from arra.systems.mar.recipe import Recipe


def sequences(recipe: Recipe, rings: int, count: int, random: torch.Generator) -> Tensor:
    """(count, L, 2 rings): on every ring a first point of all, then a neighbour of the last one,
    independently of the other rings; each with Gaussian noise."""
    shape = (count, recipe.length, rings)
    step = 2 * torch.randint(2, shape, generator=random) - 1
    step[:, 0] = torch.randint(recipe.modes, (count, rings), generator=random)
    at = step.cumsum(dim=1)
    noise = torch.randn(*shape, 2, generator=random)
    return (_points(recipe)[at % recipe.modes] + recipe.deviation * noise).flatten(2)


def _points(recipe: Recipe) -> Tensor:
    angle = 2 * math.pi * torch.arange(recipe.modes) / recipe.modes
    return torch.stack((angle.cos(), angle.sin()), dim=1)


def judged(drawn: Tensor, recipe: Recipe) -> dict[str, float]:
    """Shares of what was drawn (N, L, 2 rings): of sequences all of which is at points, each next
    one a neighbour; and of parts (a ring of a token) that are so."""
    parts = drawn.unflatten(2, (-1, 2))
    distance, at = (parts[..., None, :] - _points(recipe)).norm(dim=-1).min(dim=-1)
    step = (at[:, 1:] - at[:, :-1]) % recipe.modes
    good = distance < recipe.near
    good[:, 1:] &= (step == 1) | (step == recipe.modes - 1)
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
