"""Sequences as the sampler of vectors draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from arra.denoising import DenoisingPath, Spans
from arra.experiments.rings import Sequences
from arra.heads.base import Head
from arra.randomness import Noise


@dataclass
class Drawing:
    """Sequences that are being drawn."""

    vectors: Tensor
    """(B, L, C)."""


class SequenceStepper:
    """A transformer and its head, token by token; it keeps no keys, and reads all of a sequence in
    every pass."""

    def __init__(self, model: Sequences, head: Head, length: int):
        self.model, self.head, self.length = model, head, length

    @property
    def unit_sizes(self) -> list[int]:
        return [1] * self.length

    @property
    def path_draws(self) -> tuple[int, int, int]:
        return self.head.draws, self.head.last_draws, self.head.channels

    def prompt_ids(self, caption: str | None) -> list[int]:
        return []

    def begin(self, prompts: Sequence[Sequence[int]], noise: Noise) -> Drawing:
        return Drawing(torch.zeros(len(prompts), self.length, self.head.channels))

    def paths(
        self,
        cache: Drawing,
        vectors: Tensor,
        spans: Spans,
        noise: Tensor,
        scale: Tensor,
        temperature: float,
        last: float | None,
    ) -> DenoisingPath:
        rows, at = spans.pictures.unique(return_inverse=True)
        hidden = self.model(vectors[rows])[at, spans.first]
        return self.head.path(hidden, noise, 1.0, temperature, last)

    def keep(self, cache: Drawing, vectors: Tensor, counts: Tensor) -> None:
        cache.vectors = vectors

    def drawn(self, cache: Drawing) -> Tensor:
        return cache.vectors
