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
    """Distance (n,) from each query to the nearest key, and that key's index (n,).

    A matrix product finds a few candidates, ten times faster for pictures; the distances to those
    are then exact, so that copies lie at 0.
    """
    q, k = (torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64)) for x in (queries, keys))
    middle = k.mean(dim=0)  # near the origin the product loses fewest digits
    q, k = q - middle, k - middle
    squares = (k * k).sum(dim=1)
    values, indices = [], []
    for part in q.split(block):
        rough = squares - 2 * part @ k.T
        candidates = rough.topk(min(4, len(k)), dim=1, largest=False).indices
        exact = (part[:, None] - k[candidates]).norm(dim=2)
        smallest = exact.min(dim=1)
        values.append(smallest.values)
        indices.append(candidates.gather(1, smallest.indices[:, None])[:, 0])
    return torch.cat(values).numpy(), torch.cat(indices).numpy()
