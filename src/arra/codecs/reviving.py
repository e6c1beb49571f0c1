"""Where codes that nobody uses should go."""

from __future__ import annotations

import torch
from torch import Tensor


def badly_served(
    vectors: Tensor, distance: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """(m, D) of the vectors (N, D) that lie far from every code, m <= `count`, for codes to take.

    They are drawn without repetition with probability proportional to their squared `distance` (N,)
    from the nearest code (as k-means++ seeds its centres), so that a code never lands on a copy of
    a good one; vectors at a distance of 0 (up to 1e-6) are none. Vectors and distances should be
    of the order of 1.
    """
    distance = distance.double().cpu()
    count = min(count, int((distance > 1e-6).sum()))
    if count == 0:
        return vectors[:0]
    chosen = torch.multinomial(distance.clamp_min(1e-30), count, generator=generator)
    # equal patches give equal latents: a little noise keeps two revived codes apart
    noise = 0.02 * torch.randn(count, vectors.shape[1], generator=generator)
    return vectors[chosen.to(vectors.device)] + noise.to(vectors)


def evenly(distances: list[Tensor]) -> Tensor:
    """(N,) the distances of several scales one after another, each scale with the same sum."""
    most = max(len(distance) for distance in distances)
    return torch.cat([d / d.sum().clamp_min(1e-12) * most for d in distances])
