"""Cells that training hides and drawing finds in rounds (MAR, arXiv 2406.11838, sections 3.4 and
4): how many, which, and in which order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from arra.randomness import Noise

_SPREAD = 0.25


def hidden_cells(rng: np.random.Generator, rows: int, cells: int, least: float) -> Tensor:
    """(rows, cells) bool: which cells training hides, as many in all rows: a share of a normal law
    around 1, of deviation 0.25, cut to `least` to 1; one cell at least."""
    share = -1.0
    while not least <= share <= 1.0:
        share = 1.0 + _SPREAD * rng.standard_normal()
    rank = rng.random((rows, cells)).argsort(axis=1).argsort(axis=1)
    return torch.from_numpy(rank < max(1, math.ceil(cells * share)))


@dataclass(kw_only=True)
class Rounds:
    """Pictures whose hidden cells are drawn in rounds."""

    order: Tensor
    """(B, n): the order in which cells are drawn."""
    latents: Tensor
    """(B, n, C)."""
    done: int = 0
    """How many cells of each picture are drawn."""
    round: int = 0

    @property
    def hidden(self) -> Tensor:
        """(B, n) bool."""
        hidden = torch.zeros_like(self.order, dtype=torch.bool)
        return hidden.scatter(1, self.order[:, self.done :], True)

    @staticmethod
    def begun(
        noise: Noise, cells: int, channels: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Order and vectors of pictures of which nothing is drawn, each in an order of its own."""
        order = noise(cells).argsort(dim=1).to(device)
        return order, torch.zeros(*order.shape, channels, device=device)

    def next(self, rounds: int) -> Tensor:
        """(B, k) the cells of the next of so many rounds."""
        stop = drawn_after(self.round + 1, rounds, self.order.shape[1], self.done)
        return self.order[:, self.done : stop]

    def put(self, found: Tensor) -> None:
        """Take in what the next k cells are, (B k, C): the round is over."""
        count = len(found) // len(self.order)
        where = self.order[:, self.done : self.done + count, None].expand(-1, -1, found.shape[-1])
        self.latents = self.latents.scatter(1, where, found.view_as(where))
        self.done, self.round = self.done + count, self.round + 1


def round_sizes(rounds: int, cells: int) -> list[int]:
    """How many cells each of so many rounds draws."""
    done = [0]
    for number in range(1, rounds + 1):
        done.append(drawn_after(number, rounds, cells, done[-1]))
    return [after - before for before, after in pairwise(done)]


def drawn_after(round: int, rounds: int, cells: int, before: int) -> int:
    """How many cells are drawn after so many rounds: all but floor(cells cos(pi / 2 round /
    rounds)), one more than `before` at least and leaving one for every round that follows."""
    left = math.floor(cells * math.cos(math.pi / 2 * round / rounds) + 1e-9)
    if round >= rounds:
        return cells
    return cells - max(rounds - round, min(left, cells - before - 1))
