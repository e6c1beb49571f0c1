"""Grids whose joint law is known: a rule that draws cell by cell and depends strongly on the past.

A cell equals its left neighbour with probability `KEEP`, otherwise it is any of the codes; the
first column copies the row above in the same way, and the first cell is any code. So every cell is
uniform by itself, and two neighbours agree by a chain of copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE, CODES, KEEP = 4, 8, 0.9
CELLS = SIDE * SIDE
DIMENSIONS = 4


@dataclass
class Drawn:
    """The cells so far of B grids, (B,) each."""

    cells: list[Tensor]


class RuleStepper:
    """The rule as a generator of codes, the teacher: it has no captions and makes no errors."""

    units = CELLS
    codes_shape = (SIDE, SIDE)

    def prompt_ids(self, caption: str | None) -> list[int]:
        """There is nothing to be told."""
        return []

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Drawn]:
        """Logits (B, V) of the first cell: all alike."""
        return torch.zeros(len(prompts), CODES), Drawn([])

    def step(self, codes: Tensor, cache: Drawn) -> Tensor:
        """Logits (B, V) of the next cell after `codes` (B,) were drawn."""
        cache.cells.append(codes)
        copied = F.one_hot(cache.cells[parent(len(cache.cells))], CODES).float()
        return (KEEP * copied + (1.0 - KEEP) / CODES).log()


def parent(cell: int) -> int:
    """The cell that `cell` copies: to the left, or above in the first column."""
    return cell - 1 if cell % SIDE else cell - SIDE


def edges() -> list[tuple[int, int]]:
    """The 24 pairs of neighbouring cells, in raster order of the first."""
    across = [(i, i + 1) for i in range(CELLS) if (i + 1) % SIDE]
    down = [(i, i + SIDE) for i in range(CELLS - SIDE)]
    return across + down


def true_tables() -> Tensor:
    """(24, V, V) joint probabilities of the edges' two codes: one is the other's copy with
    probability k to the number of copies between them, else independent and uniform."""

    def ancestors(cell: int) -> list[int]:
        found = [cell]
        while found[-1]:
            found.append(parent(found[-1]))
        return found

    tables = []
    for one, other in edges():
        mine, theirs = ancestors(one), ancestors(other)
        copies = len(set(mine) ^ set(theirs))
        kept = KEEP**copies
        same = torch.eye(CODES) / CODES
        tables.append(kept * same + (1.0 - kept) / CODES**2)
    return torch.stack(tables)


def tables_of(codes: Tensor) -> Tensor:
    """(24, V, V) how often the edges' codes occur together in grids (N, 16)."""
    found = [
        torch.bincount(codes[:, one] * CODES + codes[:, other], minlength=CODES**2)
        for one, other in edges()
    ]
    return torch.stack(found).view(-1, CODES, CODES) / len(codes)


def distance(codes: Tensor) -> float:
    """Total variation between the tables of grids (N, 16) and the true ones, mean over edges."""
    apart = (tables_of(codes) - true_tables()).abs().sum(dim=(1, 2)) / 2
    return float(apart.mean())


def independent(codes: Tensor, count: int, seed: int) -> Tensor:
    """(count, 16) grids whose cells are drawn each by itself, as often as codes are in `codes`."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(codes), (count, CELLS), generator=random)
    return codes.gather(0, rows)


def code_vectors(seed: int) -> Tensor:
    """(V, 4) on the unit sphere, at random."""
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(CODES, DIMENSIONS, generator=random), dim=1)
