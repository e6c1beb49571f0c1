"""Texts whose law is known: additions of numbers of three figures.

The lowest figure comes first, in the numbers as in the sum, so that a model of a hundred thousand
parameters can learn to carry from 2000 of them: "3 2 1 + 7 7 0 =" goes on "0 0 2 0".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from arra.experiments.digits import MemoryStore

FIGURES = tuple("0123456789")
WRITTEN = len(FIGURES[:3]) + 1
"""Figures of a sum."""
_NUMBERS = 1000


@dataclass(frozen=True)
class Additions:
    """N pairs of numbers."""

    pairs: np.ndarray
    """(N, 2) int64."""

    @property
    def prompts(self) -> list[str]:
        """What is asked: "3 2 1 + 7 7 0 ="."""
        return [f"{_spelt(a, 3)} + {_spelt(b, 3)} =" for a, b in self.pairs.tolist()]

    @property
    def answers(self) -> Tensor:
        """(N, 4) int64: the figures of the sums, which are the numbers of their tokens."""
        return torch.tensor(
            [[int(c) for c in _spelt(a + b, WRITTEN).split()] for a, b in self.pairs.tolist()]
        )

    def store(self, ids: list[list[int]]) -> MemoryStore:
        """Prompts as `ids`, and answers."""
        return MemoryStore(ids, self.answers)


def additions(count: int, held_out: int, seed: int) -> tuple[Additions, Additions]:
    """Additions to train on and others, no pair twice."""
    found = np.random.default_rng(seed).choice(_NUMBERS**2, count + held_out, replace=False)
    pairs = np.stack((found // _NUMBERS, found % _NUMBERS), axis=1)
    return Additions(pairs[:count]), Additions(pairs[count:])


def corrupted(right: Tensor, seed: int, more: int = 0, last: int | None = None) -> list[list[int]]:
    """First codes of each row of (N, L), of n codes each: some that are right, one that is wrong,
    and `more` that would be right after it. The wrong one stands anywhere that leaves room, or at
    place `last`; it is another code that occurs."""
    random = np.random.default_rng([seed, 9])
    known, found = np.unique(right.numpy()), []
    for row in right.tolist():
        at = int(random.integers(len(row) - more)) if last is None else last
        wrong = int(random.choice(known[known != row[at]]))
        found.append([*row[:at], wrong, *row[at + 1 : at + 1 + more]])
    return found


def _spelt(number: int, figures: int) -> str:
    """Its figures, the lowest first."""
    return " ".join(reversed(f"{number:0{figures}d}"))
