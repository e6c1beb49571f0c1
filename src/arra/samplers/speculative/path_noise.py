"""The noise of denoising paths: a function of picture and vector, the same for draft and target."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from arra.denoising import Spans
from arra.samplers.noise import PictureNoise


def derived(seeds: Sequence[int], purpose: str) -> list[int]:
    """Seeds of streams of their own, of pictures with these seeds."""
    return [random.Random(f"{seed} {purpose}").getrandbits(62) for seed in seeds]


class NoiseTape:
    """The normal numbers of every vector of B pictures, each made once and read as often as wanted.

    All but those of the last step are the numbers that `VectorSampler` would give the same unit of
    a picture of the same seed.
    """

    def __init__(
        self,
        streams: PictureNoise,
        seeds: Sequence[int],
        sizes: Sequence[int],
        draws: tuple[int, int],
        channels: int,
    ):
        """`streams` of the pictures with these `seeds` go on from where they are. `sizes`: vectors
        of each unit; `draws`: numbers that a sample takes, and those beyond them of a path."""
        self._streams, self._last = streams, PictureNoise(derived(seeds, "last step"))
        self._sizes, self._draws = list(sizes), draws
        self._made = torch.empty(len(seeds), sum(sizes), sum(draws), channels)
        self._units = self._vectors = 0  # that are made

    def of(self, spans: Spans) -> Tensor:
        """(draws, M, C) of the vectors of some spans, one span after the other."""
        while self._vectors < int(spans.stop.max()):
            self._make()
        _, picture, number = spans.places(self._made.shape[1])
        return self._made[picture, number].transpose(0, 1)

    def _make(self) -> None:
        """Make those of the next unit: streams are read in the order of units."""
        (sample, last), size = self._draws, self._sizes[self._units]
        channels, here = self._made.shape[-1], slice(self._vectors, self._vectors + size)
        for streams, count, first in ((self._streams, sample, 0), (self._last, last, sample)):
            if count:
                made = streams.normal(count, size, channels).transpose(1, 2)
                self._made[:, here, first : first + count] = made
        self._units, self._vectors = self._units + 1, self._vectors + size
