"""What a head is: the law of a continuous token given the network's state at its position."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from arra.denoising import DenoisingPath
from arra.errors import InputError


class Head(nn.Module, ABC):
    """p(x | hidden) of tokens x of C numbers, given states of width D. M rows, of any origin."""

    channels: int
    """C."""
    draws: int
    """Normal numbers that one sample takes, in units of C."""
    last_draws: int = 0
    """Those that a path takes beyond them, for its last step."""

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

    @property
    def pathless(self) -> str:
        """Why samples have no path of Gaussian steps; empty where `path` says it."""
        return "its head does not draw in Gaussian steps"

    def path(
        self,
        hidden: Tensor,
        noise: Tensor,
        scale: float | Tensor = 1.0,
        temperature: float = 1.0,
        last: float | None = None,
    ) -> DenoisingPath:
        """Tokens drawn with noise (draws + last_draws, M, C), and how: as `sample` draws them, but
        that the last step, too, adds noise, of deviation `last` (None: what the head has for it).

        `scale` may be (M, 1), one for each token, where hidden are pairs. `InputError` where there
        is no path, or noise of temperature 0.
        """
        if self.pathless:
            raise InputError(f"path: {self.pathless}")
        if temperature <= 0.0:
            raise InputError(f"path: temperature {temperature}, expected more than 0")
        return self._path(hidden, noise, scale, temperature, last)

    def _path(
        self,
        hidden: Tensor,
        noise: Tensor,
        scale: float | Tensor,
        temperature: float,
        last: float | None,
    ) -> DenoisingPath:
        raise InputError(f"path: a {type(self).__name__} says none")


def guided(
    predict: Callable[[Tensor, Tensor, Tensor], Tensor],
    hidden: Tensor,
    rows: int,
    scale: float | Tensor,
    channels: int,
) -> Callable[[Tensor, Tensor], Tensor]:
    """What a network predict(x, time, hidden) says of `rows` rows x, by states (rows, ...) or those
    of pairs (2 rows, ...): u + scale (c - u) of the first `channels` numbers; the rest, a learned
    variance, is the conditional one's. `scale` may be (rows, 1)."""
    if len(hidden) == rows or (not isinstance(scale, Tensor) and scale == 1.0):
        return lambda x, time: predict(x, time, hidden[:rows])
    return steered(predict, hidden, (scale,), channels)


def steered(
    predict: Callable[[Tensor, Tensor, Tensor], Tensor],
    hidden: Tensor,
    scales: Sequence[float | Tensor],
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
