"""Distances between many vectors without one large table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

_EXACT = "donot_use_mm_for_euclid_dist"


def distance_blocks(
    queries: np.ndarray, keys: np.ndarray, block: int = 512
) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows of the Euclidean distances (n, m) float64 of (n, d) to (m, d).

    Differences are squared one by one: the shortcut through a matrix product gives equal vectors a
    distance above zero, and copies are what these distances are for.
    """
    q, k = (torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64)) for x in (queries, keys))
    for start in range(0, len(q), block):
        rows = slice(start, min(start + block, len(q)))
        yield rows, torch.cdist(q[rows], k, compute_mode=_EXACT)


def nearest(
    queries: np.ndarray, keys: np.ndarray, block: int = 512
) -> tuple[np.ndarray, np.ndarray]:
    """Distance (n,) from each query to the nearest key, and that key's index (n,)."""
    values, indices = [], []
    for _, table in distance_blocks(queries, keys, block):
        smallest = table.min(dim=1)
        values.append(smallest.values)
        indices.append(smallest.indices)
    return torch.cat(values).numpy(), torch.cat(indices).numpy()
