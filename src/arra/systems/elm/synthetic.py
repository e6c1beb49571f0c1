"""Sequences of codes whose law is known: what splitting a code costs can be said exactly.

A code of D = 8 bits is a table's entry XOR noise. The entry depends on the class and on the first
bit of the code before. (The published toy takes the parity of the code before; to learn the parity
of eight bits from eight tables is hard for gradient descent, whatever a split loses.) The noise is

- "free": every bit turns by itself with a chance of 0.15;
- "near": bits 2 k and 2 k + 1 turn together, with a chance of 1/2;
- "far": bits j and j + 4 turn together, with a chance of 1/2.

Tied bits that lie in different sub-codes are predicted independently, so that a model pays one bit
a pair and cell over the true entropy, whatever it learns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from arra.networks.grid_llama import divided

Ties = Literal["free", "near", "far"]
BITS = 8
CODES = 2**BITS
CLASSES = 4
FLIP = 0.15


@dataclass(frozen=True)
class Source:
    """A law of sequences, its table a function of `seed`."""

    ties: Ties
    seed: int

    @property
    def table(self) -> Tensor:
        """(classes, 2) int64: the code before noise, by class and first bit of the code before."""
        rng = torch.Generator().manual_seed(self.seed)
        return torch.randint(CODES, (CLASSES, 2), generator=rng)

    @property
    def noise(self) -> Tensor:
        """(256,) float64: the chance of each pattern of turned bits."""
        bits = divided(torch.arange(CODES), 2, BITS).bool()
        if self.ties == "free":
            turned = bits.sum(dim=1).double()
            return FLIP**turned * (1.0 - FLIP) ** (BITS - turned)
        one, other = {
            "near": (bits[:, 0::2], bits[:, 1::2]),
            "far": (bits[:, :4], bits[:, 4:]),
        }[self.ties]
        allowed = (one == other).all(dim=1)
        return allowed.double() / allowed.sum()

    @property
    def entropy(self) -> float:
        """Bits of a cell's code given what is before it."""
        return float(-(self.noise * self.noise.clamp_min(1e-300).log2()).sum())

    def least_excess(self, split: int) -> float:
        """Bits a cell that a model of `split` independent sub-codes pays at least: the entropies of
        the sub-codes by themselves, minus that of all."""
        patterns = divided(torch.arange(CODES), 2 ** (BITS // split), split)
        total = 0.0
        for part in patterns.unbind(1):
            own = torch.zeros(2 ** (BITS // split), dtype=torch.float64)
            own.index_add_(0, part, self.noise)
            total += float(torch.special.entr(own).sum() / torch.log(torch.tensor(2.0)))
        return total - self.entropy

    def draw(self, count: int, cells: int, seed: int) -> tuple[Tensor, Tensor]:
        """Classes (count,) and codes (count, cells) int64."""
        rng = torch.Generator().manual_seed(seed)
        classes = torch.randint(CLASSES, (count,), generator=rng)
        turned = torch.multinomial(self.noise, count * cells, replacement=True, generator=rng)
        codes, before = [], torch.zeros(count, dtype=torch.int64)
        for pattern in turned.view(count, cells).unbind(1):
            codes.append(self.table[classes, before] ^ pattern)
            before = codes[-1] >> (BITS - 1)
        return classes, torch.stack(codes, dim=1)

    def law(self, classes: Tensor, codes: Tensor) -> Tensor:
        """(B, n, 256) float64: the true law of every cell given class and cells before."""
        first = codes >> (BITS - 1)
        before = torch.cat((torch.zeros_like(first[:, :1]), first[:, :-1]), dim=1)
        entry = self.table[classes[:, None], before]
        return self.noise[entry[..., None] ^ torch.arange(CODES)]
