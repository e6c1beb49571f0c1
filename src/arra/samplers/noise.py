"""Randomness that belongs to a picture: the same seed draws the same picture in any company."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class PictureNoise:
    """One stream of random numbers per picture, a function of its seed alone."""

    def __init__(self, seeds: Sequence[int]):
        # The streams are made on the CPU, so that every device draws the same pictures.
        self._streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def exponential(self, width: int, device: torch.device) -> Tensor:
        """(B, width) float32 exponential variables: the next ones of each picture's stream."""
        rows = [torch.empty(width).exponential_(generator=stream) for stream in self._streams]
        return torch.stack(rows).to(device, non_blocking=True)


def draw(probabilities: Tensor, noise: Tensor) -> Tensor:
    """(B,) int64 drawn from (B, V) probabilities by an exponential race: argmax of p / e.

    The index with the smallest e / p is distributed as p when e is exponential; no host
    synchronisation, and monotone in the noise.
    """
    return (probabilities / noise.clamp(min=torch.finfo(noise.dtype).tiny)).argmax(dim=-1)
