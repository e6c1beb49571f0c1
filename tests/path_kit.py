"""Targets and drafts of vectors without a network."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

from arra.denoising import DenoisingPath


class GaussianStepper:
    """Chains x_u ~ N(mean(u, x_{u-1}), deviation^2) of vectors of C numbers, units of one vector;
    x_{-1} is 0."""

    def __init__(
        self,
        mean: Callable[[Tensor, Tensor], Tensor],
        deviation: float,
        units: int,
        channels: int = 1,
    ):
        self.mean, self.deviation = mean, deviation
        self.units, self.channels = units, channels
        self.passes: list[list[tuple[int, int]]] = []
        """Of every pass the pictures and vectors that it drew."""

    @property
    def unit_sizes(self):
        return [1] * self.units

    @property
    def path_draws(self):
        return 1, 0, self.channels

    def prompt_ids(self, caption):
        return []

    def begin(self, prompts, noise):
        return SimpleNamespace(vectors=None)

    def paths(self, cache, vectors, spans, noise, scale, temperature, last):
        self.passes.append(list(zip(spans.pictures.tolist(), spans.first.tolist(), strict=True)))
        before = vectors[spans.pictures, (spans.first - 1).clamp(min=0)]
        before = torch.where(spans.first[:, None] > 0, before, 0.0)
        mean = self.mean(spans.first[:, None], before)
        deviation = torch.full_like(mean, temperature * self.deviation)
        return DenoisingPath(
            mean + deviation * noise[0], mean, deviation, torch.zeros(len(mean)).double()
        )

    def keep(self, cache, vectors, counts):
        cache.vectors = vectors.clone()

    def drawn(self, cache):
        return cache.vectors
