"""What a head is: the law of a continuous token given the network's state at its position."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Head(nn.Module, ABC):
    """p(x | hidden) of tokens x of C numbers, given states of width D. M rows, of any origin."""

    channels: int
    """C."""
    draws: int
    """Normal numbers that one sample takes, in units of C."""

    @abstractmethod
    def losses(
        self, target: Tensor, hidden: Tensor, random: torch.Generator | None = None
    ) -> Tensor:
        """(M,) the training loss of each row of target (M, C), given hidden (M, D). Its noise is
        that of `random`, or of torch's own stream."""

    def loss(
        self,
        target: Tensor,
        hidden: Tensor,
        mask: Tensor | None = None,
        random: torch.Generator | None = None,
    ) -> Tensor:
        """A scalar: the mean of `losses` over all rows, or over those in `mask` (M,) bool."""
        return mean_of(self.losses(target, hidden, random), mask)

    @abstractmethod
    def sample(
        self,
        hidden: Tensor,
        noise: Tensor,
        scale: float = 1.0,
        temperature: float = 1.0,
    ) -> Tensor:
        """(M, C) tokens drawn with standard normal noise (draws, M, C).

        hidden is (M, D), or, to be guided by `scale`, (2 M, D): row i and, without condition, row
        M + i, which share their noise; of scale 1 only the first half counts. `temperature` scales
        the noise: 0 takes what the law holds most likely, or what follows from the noise that a
        sample begins with.
        """


def guided(
    predict: Callable[[Tensor, Tensor, Tensor], Tensor],
    hidden: Tensor,
    rows: int,
    scale: float,
    channels: int,
) -> Callable[[Tensor, Tensor], Tensor]:
    """What a network predict(x, time, hidden) says of `rows` rows x, by states (rows, ...) or those
    of pairs (2 rows, ...): u + scale (c - u) of the first `channels` numbers; the rest, a learned
    variance, is the conditional one's."""
    if len(hidden) == rows or scale == 1.0:
        return lambda x, time: predict(x, time, hidden[:rows])
    return steered(predict, hidden, (scale,), channels)


def steered(
    predict: Callable[[Tensor, Tensor, Tensor], Tensor],
    hidden: Tensor,
    scales: Sequence[float],
    channels: int,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Guidance by several conditions, each of which knows less than the one before: of states
    ((k + 1) rows, ...), whole condition first, and k scales, the way from each to the one that
    knows more is gone so many times. Of one scale `guided`; of two, (w, w'), what knows all, a part
    and nothing say a, b, c, and the result is c + w' (b - c) + w (a - b) (InstructPix2Pix, arXiv
    2211.09800)."""
    parts = len(scales) + 1

    def all_of_them(x: Tensor, time: Tensor) -> Tensor:
        often = (parts, *(1,) * (x.ndim - 1))
        said = predict(x.repeat(often), time.repeat((parts, *(1,) * (time.ndim - 1))), hidden)
        known = said.chunk(parts)
        moved = known[-1]
        for number in reversed(range(parts - 1)):
            moved = moved + scales[number] * (known[number] - known[number + 1])
        return torch.cat((moved[..., :channels], known[0][..., channels:]), dim=-1)

    return all_of_them


def mean_of(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of rows (M,), or of those in the mask (M,) bool."""
    return rows.mean() if mask is None else (rows * mask).sum() / mask.sum()
