"""Randomness that depends on a given seed and leaves everybody else's alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


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
