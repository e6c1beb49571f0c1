"""Randomness that belongs to a picture: the same seed draws the same picture in any company."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

NOISE = 2
"""Raised when a seed comes to other noise than before, and so to another picture."""
_MOST_AHEAD = 1 << 21  # numbers: 8 MiB


class PictureNoise:
    """One stream of random numbers per picture, a function of its seed alone."""

    def __init__(self, seeds: Sequence[int]):
        # The streams are made on the CPU, so that every device draws the same pictures.
        self._streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def exponential(self, width: int, device: torch.device) -> Tensor:
        """(B, width) float32 exponential variables: the next ones of each picture's stream."""
        return next(self.ahead(1, width, device))

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) float32 standard normal variables: the next ones of each picture's stream, on
        the CPU."""
        return torch.stack([torch.randn(shape, generator=stream) for stream in self._streams])

    def ahead(
        self, units: int, width: int, device: torch.device, most: int = _MOST_AHEAD
    ) -> Iterator[Tensor]:
        """`exponential` for so many units, made for many units at once: before a picture is drawn,
        or, of large ones, a few times while it is. At most `most` numbers wait, or those of a
        unit."""
        rows = len(self._streams)
        block = max(most // max(rows * width, 1), 1)
        for start in range(0, units, block):
            count = min(block, units - start)
            whole = torch.empty((rows, count, width), dtype=torch.int64)
            for row, stream in zip(whole, self._streams, strict=True):
                row.random_(generator=stream)
            # (units, B, width) as it will be read; one picture's noise lies so already
            made = _exponential(whole).transpose(0, 1).contiguous()
            yield from made.to(device, non_blocking=True)


def _exponential(whole: Tensor) -> Tensor:
    """Exponential variables of integers that are uniform up to 2^63, by inversion.

    The small ones, which win races, are as fine as float32 is. (`exponential_` of torch takes
    several times as long on a CPU, more than a small model takes for its logits.)
    """
    uniform = whole.float().mul_(2.0**-63).clamp_(max=1.0 - 2.0**-24)
    return uniform.neg_().log1p_().neg_()


def draw(probabilities: Tensor, noise: Tensor) -> Tensor:
    """(B,) int64 drawn from (B, V) probabilities by an exponential race: argmax of p / e.

    The index with the smallest e / p is distributed as p when e is exponential; no host
    synchronisation, and monotone in the noise.
    """
    return (probabilities / noise.clamp(min=torch.finfo(noise.dtype).tiny)).argmax(dim=-1)
