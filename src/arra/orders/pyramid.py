"""A pyramid of scales: one picture as grids of growing size, each of which is one unit.

The order of next-scale prediction (VAR, arXiv 2404.02905, section 3.2): every cell of a scale is
predicted at the same moment, from all coarser scales. Positions are numbered scale by scale, the
coarsest first, each scale in raster order; L is their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from arra.errors import InputError
from arra.orders.builders import units
from arra.orders.layout import FOREVER, Layout


@dataclass(frozen=True)
class Pyramid:
    """The sizes of the scales, (rows, columns) each; the last is the grid of the picture."""

    sizes: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not self.sizes or any(len(size) != 2 or min(size) < 1 for size in self.sizes):
            raise InputError(
                f"Pyramid.sizes: {self.sizes}, expected at least one pair of rows and columns"
            )

    @classmethod
    def square(cls, sides: Sequence[int]) -> Pyramid:
        """Square scales with these sides."""
        return cls(tuple((side, side) for side in sides))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the last scale."""
        return self.sizes[-1]

    @property
    def counts(self) -> tuple[int, ...]:
        """Cells of each scale."""
        return tuple(rows * columns for rows, columns in self.sizes)

    @property
    def length(self) -> int:
        """L, the cells of all scales."""
        return sum(self.counts)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Where each scale lies among the L positions."""
        found, start = [], 0
        for count in self.counts:
            found.append(slice(start, start + count))
            start += count
        return tuple(found)

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Values (B, L, ...) scale by scale: (B, n, ...) each."""
        return values.split(self.counts, dim=1)

    def levels(self) -> Tensor:
        """(L,) int64: the scale of each position, from 0."""
        return torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.counts))

    def places_of(self, sizes: tuple[tuple[int, int], ...]) -> list[int]:
        """Positions, among the L, of the scales of these sizes, in the order of `sizes`."""
        where = dict(zip(self.sizes, self.slices, strict=True))
        if missing := [size for size in sizes if size not in where]:
            raise InputError(f"scales {missing}: expected some of {self.sizes}")
        return [place for size in sizes for place in range(self.length)[where[size]]]

    def cells(self) -> Tensor:
        """(L, 2) int64: row and column of each position within its scale."""
        return torch.cat([torch.cartesian_prod(*map(torch.arange, size)) for size in self.sizes])

    def covers(self) -> Tensor:
        """(L, n) bool: which of the n places of the last scale a cell covers, be it in part.

        A cell spans an equal share of each side: row i of h reaches over rows floor(i H / h) to
        ceil((i + 1) H / h) of H, which are those that area-downsampling averages.
        """
        grid = self.grid
        parts = []
        for size in self.sizes:
            rows, columns = (_reach(*pair) for pair in zip(size, grid, strict=True))
            both = rows[:, None, :, None] & columns[None, :, None, :]
            parts.append(both.flatten(2).flatten(0, 1))
        return torch.cat(parts)

    def layout(self, prefix: int = 0, forget: bool = False) -> Layout:
        """`prefix` positions of text, seen by all and seeing each other, then the scales.

        Every position of a scale sees its scale and what came before, stands at the place that it
        predicts, and needs no shift: what it reads is made of the coarser scales. With `forget` a
        scale is seen only from within (attention of M-VAR, arXiv 2411.10433); text still by all.
        """
        blocks = units([prefix, *self.counts] if prefix else self.counts, forget)
        if forget:
            blocks.dies[:prefix] = FOREVER
        place = torch.cat((torch.full((prefix,), -1), torch.arange(self.length)))
        return replace(blocks, place=place, target=place)

    def kept(self, mask: Tensor, forced: int = 3) -> Tensor:
        """(B, L) bool: cells that a mask (B, H, W) bool over the last scale keeps.

        A cell is kept when more than half of the places that it covers are; scales of at most
        `forced` cells are kept whole if anything is, as they say how the picture looks in all.
        """
        if mask.shape[1:] != self.grid or mask.dtype != torch.bool:
            raise InputError(
                f"mask: {tuple(mask.shape)} {mask.dtype}, expected bool (B, {self.grid[0]}, "
                f"{self.grid[1]})"
            )
        covers = self.covers().to(mask.device, torch.float32)
        share = mask.flatten(1).float() @ covers.T / covers.sum(dim=1)
        small = torch.tensor([n <= forced for n in self.counts], device=mask.device)
        whole = small[self.levels().to(mask.device)] & mask.flatten(1).any(dim=1, keepdim=True)
        return (share > 0.5) | whole


def halved_sizes(grid: tuple[int, int], most: int | None = None) -> tuple[tuple[int, int], ...]:
    """Scales up to `grid`, each half of the next: down to 1 x 1, halves rounded up (FlowAR, arXiv
    2412.15205: 1, 2, 4, 8, 16), or, with `most`, at most so many and none but exact halves."""
    sizes = [grid]
    while max(sizes[0]) > 1 and (most is None or len(sizes) < most):
        rows, columns = sizes[0]
        if most is not None and (rows % 2 or columns % 2):
            break
        sizes.insert(0, (-(-rows // 2), -(-columns // 2)))
    return tuple(sizes)


def growing_sizes(side: int) -> tuple[tuple[int, int], ...]:
    """Square scales up to `side`: in proportion to VAR's ten for a side of 16 (section 4.1)."""
    usual = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    sides = sorted({max(1, round(s * side / usual[-1])) for s in usual})
    return tuple((s, s) for s in sides)


def _reach(cells: int, places: int) -> Tensor:
    """(cells, places) bool: which places of a side a cell along it touches."""
    cell, place = torch.arange(cells)[:, None], torch.arange(places)[None]
    first = cell * places // cells
    stop = -(-(cell + 1) * places // cells)
    return (place >= first) & (place < stop)
