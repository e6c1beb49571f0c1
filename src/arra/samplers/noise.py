"""Randomness that belongs to a picture: the same seed draws the same picture in any company."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_MOST_AHEAD = 1 << 24  # numbers, 64 MiB


class PictureNoise:
    """One stream of random numbers per picture, a function of its seed alone."""

    def __init__(self, seeds: Sequence[int]):
        # The streams are made on the CPU, so that every device draws the same pictures.
        self._streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def exponential(self, width: int, device: torch.device) -> Tensor:
        """(B, width) float32 exponential variables: the next ones of each picture's stream."""
        return next(self.ahead(1, width, device))

    def ahead(self, units: int, width: int, device: torch.device) -> Iterator[Tensor]:
        """`exponential` for so many units, made for many units at once: before a picture is drawn,
        or, of large ones, a few times while it is."""
        block = max(_MOST_AHEAD // max(len(self._streams) * width, 1), 1)
        for start in range(0, units, block):
            made = torch.empty(min(block, units - start), len(self._streams), width)
            for unit_rows in made:
                for row, stream in zip(unit_rows, self._streams, strict=True):
                    row.exponential_(generator=stream)
            yield from made.to(device, non_blocking=True)


def draw(probabilities: Tensor, noise: Tensor) -> Tensor:
    """(B,) int64 drawn from (B, V) probabilities by an exponential race: argmax of p / e.

    The index with the smallest e / p is distributed as p when e is exponential; no host
    synchronisation, and monotone in the noise.
    """
    return (probabilities / noise.clamp(min=torch.finfo(noise.dtype).tiny)).argmax(dim=-1)
