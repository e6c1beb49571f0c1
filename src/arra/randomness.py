"""Randomness that depends on a given seed and leaves everybody else's alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

Noise = Callable[..., Any]
"""noise(*shape) is a tensor (B, *shape) float32, standard normal: the next of B pictures."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the block torch's CPU generator follows `seed`; afterwards it goes on as before.

    For libraries that take no generator, such as the initial weights of torch's modules.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would reseed the accelerators too, and nobody sets them back.
        torch.default_generator.manual_seed(seed)
        yield


def derangement(count: int, rng: np.random.Generator) -> np.ndarray:
    """A random permutation (count,) int64 that leaves nothing in its place: a cycle through all.

    Of a single item there is none; it stays.
    """
    cycle = rng.permutation(count)
    moved = np.empty(count, dtype=np.int64)
    moved[cycle] = np.roll(cycle, 1)
    return moved


def permuted(places: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Where a random permutation of 0 to `count` - 1 takes `places`: (n,) int64.

    Nothing is held for what is not asked for: the permutation is a Feistel network on as many bits
    as `count` needs, walked until it is back below `count` (Black and Rogaway 2002, "Ciphers with
    arbitrary finite domains", method 2). The same state of `rng` gives the same permutation.
    """
    half = np.uint64(((count - 1).bit_length() + 1) // 2 or 1)
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = rng.integers(1 << 63, size=6, dtype=np.uint64)
    found = places.astype(np.uint64)
    outside = np.arange(len(found))
    while len(outside):
        left, right = found[outside] >> half, found[outside] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        found[outside] = (left << half) | right
        outside = outside[found[outside] >= count]
    return found.astype(np.int64)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Every bit of the result depends on every bit of a uint64 (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
