"""What is kept of the way from noise to a token: the record that heads make and samplers compare.

A token x_0 of C numbers is drawn in steps x_{t-1} = mu_t(x_t) + s_t(x_t) e_t, t = T to 1, with
standard normal e_t and a deviation for every number. Given the noise of all steps but the last, its
law is the Gaussian of the last step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class DenoisingPath:
    """The ways of M tokens (Continuous Speculative Decoding, arXiv 2411.11925)."""

    tokens: Tensor
    """(M, C) where they ended, x_0."""
    mean: Tensor
    """(M, C) mu_1, of the last step."""
    deviation: Tensor
    """(M, C) s_1, above 0."""
    log_scale: Tensor
    """(M,) the sum of log s_t over the steps before the last, t = 2 to T, and over all numbers."""

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Tensor | slice) -> Self:
        """Those of some rows."""
        return type(self)(*(x[rows] for x in self._parts()))

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(*(x.to(device) for x in self._parts()))

    @classmethod
    def cat(cls, paths: list[Self]) -> Self:
        """Rows of several, one after the other."""
        return cls(*(torch.cat(parts) for parts in zip(*(p._parts() for p in paths), strict=True)))

    def mahalanobis(self, x: Tensor) -> Tensor:
        """(..., M) |(x - mu_1) / s_1|^2 of x (..., M, C), float64."""
        gap = (x.double() - self.mean.double()) / self.deviation.double()
        return gap.square().sum(dim=-1)

    @property
    def log_height(self) -> Tensor:
        """(M,) logarithm of the last step's density at its mean, float64."""
        channels = self.mean.shape[-1]
        return -self.deviation.double().log().sum(dim=-1) - 0.5 * channels * math.log(2 * math.pi)

    def log_density(self, x: Tensor) -> Tensor:
        """(..., M) log N(x; mu_1, s_1^2) of x (..., M, C), float64."""
        return self.log_height - 0.5 * self.mahalanobis(x)

    def _parts(self) -> tuple[Tensor, ...]:
        return self.tokens, self.mean, self.deviation, self.log_scale


@dataclass(frozen=True)
class Spans:
    """Vectors that are drawn at once, of some of B pictures; vectors of a picture are counted in
    the order in which they are drawn. A picture may have several spans: each is about what follows
    if the vectors before it are as they are given."""

    pictures: Tensor
    """(A,) int64, growing."""
    first: Tensor
    """(A,) int64 the first vector of each; those of a picture grow."""
    stop: Tensor
    """(A,) int64 the one behind its last."""

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        parts = (self.pictures, self.first, self.stop)
        return type(self)(*(x.to(device) for x in parts))

    def inside(self, vectors: int) -> Tensor:
        """(A, n) bool: which of the n vectors of a picture belong to the span."""
        rank = torch.arange(vectors, device=self.first.device)
        return (rank >= self.first[:, None]) & (rank < self.stop[:, None])

    def places(self, vectors: int) -> tuple[Tensor, Tensor, Tensor]:
        """(M,) each, int64, of all M vectors of the spans, one span after the other: the span,
        the picture and the number of the vector."""
        span, rank = self.inside(vectors).nonzero().unbind(1)
        return span, self.pictures[span], rank
