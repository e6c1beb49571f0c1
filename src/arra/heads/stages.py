"""From noise to data in stages of growing resolution: where each begins and ends, and the jump from
one to the next (E-CAR, arXiv 2412.14170; the algebra is that of pyramidal flow, arXiv 2410.05954).

Levels of noise run from 1 to 0. A stage ends with (1 - e) x + e n, x being the picture at its
resolution and n white noise; enlarging this repeats the noise four times, so that less of it is
taken over and noise that undoes the repetition is added: the next stage begins at s > e.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch.nn.functional as F
from torch import Tensor

from arra.errors import InputError

GAMMA = 1.0 / 3.0
"""Covariance between the four numbers of a block that the jump adds, in those of their variance,
times -1: none can be stronger."""


@dataclass(frozen=True)
class Stage:
    """One resolution's part of the way."""

    start: float
    """s, the level of noise where it begins."""
    end: float
    """e, where it ends."""
    kept: float
    """alpha of the jump to its beginning: what the stage before ended with counts so much."""
    added: float
    """beta of that jump: so much of `block_noise` is added. Of the first stage 1, after nothing."""
    clock: tuple[float, float]
    """Times of its beginning and end, of 1 to 0, that stages share in proportion to s - e."""


def stages(count: int, cuts: Sequence[float] | None = None, gamma: float = GAMMA) -> list[Stage]:
    """`count` stages that end at the levels `cuts`, falling to 0; unless given, evenly spread."""
    ends = list(cuts) if cuts is not None else [1.0 - (k + 1) / count for k in range(count)]
    if count < 1 or len(ends) != count or ends[-1] != 0.0:
        raise InputError(f"stages: {count} that end at {ends}, expected as many, the last at 0")
    if any(not 1.0 > one > other for one, other in pairwise(ends)) or not 0.0 < gamma <= GAMMA:
        raise InputError(
            f"stages: ends {ends}, gamma {gamma}; expected levels that fall from below 1, and a "
            "gamma above 0, at most 1/3"
        )
    jumps = [(1.0, 0.0, 1.0), *(_jump(level, gamma) for level in ends[:-1])]
    lengths = [start - end for (start, _, _), end in zip(jumps, ends, strict=True)]
    passed = [0.0, *accumulate(length / sum(lengths) for length in lengths)]
    passed[-1] = 1.0  # whatever the sum is rounded to
    return [
        Stage(start, end, kept, added, (1.0 - begun, 1.0 - done))
        for (start, kept, added), end, (begun, done) in zip(
            jumps, ends, pairwise(passed), strict=True
        )
    ]


def _jump(end: float, gamma: float) -> tuple[float, float, float]:
    """s, alpha and beta after a stage that ended at this level: such that the noise is white."""
    signal = 1.0 - end
    kept = 1.0 / (math.sqrt(1.0 + 1.0 / gamma) * end + signal)
    return 1.0 - kept * signal, kept, kept * end / math.sqrt(gamma)


def block_noise(white: Tensor, gamma: float = GAMMA) -> Tensor:
    """(B, C, h, w), h and w even, of white noise: numbers of unit variance, those of a block of 2 x
    2 with covariance -gamma. With 1 / 3 every block has a mean of 0."""
    mean = repeated(F.avg_pool2d(white, 2))
    return math.sqrt(1.0 + gamma) * (white - mean) + math.sqrt(max(1.0 - 3.0 * gamma, 0.0)) * mean


def repeated(x: Tensor) -> Tensor:
    """(B, C, 2 h, 2 w): every number four times."""
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def coarser(white: Tensor) -> Tensor:
    """White noise (B, C, h / 2, w / 2) of white noise: twice the mean of every block.

    The noise of two stages is so related after a jump, too.
    """
    return 2.0 * F.avg_pool2d(white, 2)


def jump(before: Tensor, white: Tensor, stage: Stage, gamma: float = GAMMA) -> Tensor:
    """(B, C, 2 h, 2 w) where `stage` begins, after `before` (B, C, h, w), with white noise."""
    return stage.kept * repeated(before) + stage.added * block_noise(white, gamma)
