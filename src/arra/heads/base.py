"""What a head is: the law of a continuous token given the network's state at its position."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Head(nn.Module, ABC):
    """p(x | hidden) of tokens x of C numbers, given states of width D. M rows, of any origin."""

    channels: int
    """C."""
    draws: int
    """Normal numbers that one sample takes, in units of C."""

    @abstractmethod
    def loss(
        self,
        target: Tensor,
        hidden: Tensor,
        mask: Tensor | None = None,
        random: torch.Generator | None = None,
    ) -> Tensor:
        """The training loss, a scalar: the mean over rows of target (M, C) and hidden (M, D), or
        over those in `mask` (M,) bool. Its noise is that of `random`."""

    @abstractmethod
    def sample(
        self,
        hidden: Tensor,
        noise: Tensor,
        scale: float = 1.0,
        temperature: float = 1.0,
    ) -> Tensor:
        """(M, C) tokens drawn with standard normal noise (draws, M, C).

        hidden is (M, D), or, guided by a `scale` that is not 1, (2 M, D): row i and, without
        condition, row M + i, which share their noise. `temperature` scales the noise: 0 takes what
        the law holds most likely, or what follows from the noise that a sample begins with.
        """


def mean_of(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of rows (M,), or of those in the mask (M,) bool."""
    return rows.mean() if mask is None else (rows * mask).sum() / mask.sum()
