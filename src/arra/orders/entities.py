"""Entities: a picture's places in groups that are drawn one after another, and what sees what.

An entity is whatever is drawn at once (xAR, arXiv 2502.20388, section 3.2): a token, a square cell,
a subsample of all the picture, a whole scale, the picture, or a frame of a clip. Positions are
numbered entity by entity, within each in raster order; L is their number, n that of places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from arra.errors import InputError
from arra.orders.builders import units
from arra.orders.layout import NO_TARGET, Layout
from arra.orders.pyramid import Pyramid
from arra.orders.schedules import fitted
from arra.settings import Entity


@dataclass(frozen=True)
class Entities:
    """How the vectors of a picture are grouped."""

    grids: tuple[tuple[int, int], ...]
    """Rows and columns of what the positions stand on: one grid, one a scale, or one a frame."""
    places: tuple[int, ...]
    """(L,) the place of each position, counted over all grids, each in raster order."""
    sizes: tuple[int, ...]
    """Positions of each entity, L in all."""
    frames: int = 1
    """Frames whose vectors lie side by side in the C numbers of a place; else grids are scales."""

    def __post_init__(self) -> None:
        count = sum(rows * columns for rows, columns in self.grids)
        if sorted(self.places) != list(range(count)) or sum(self.sizes) != count:
            raise InputError(
                f"Entities: {len(self.places)} positions in entities of {sum(self.sizes)}, "
                f"expected each of {count} places once"
            )

    @classmethod
    def of(cls, kind: Entity, grid: tuple[int, int], side: int = 1) -> Self:
        """Entities of a grid. `side`: that of a cell, where the last ones may be smaller, or of the
        grid of a subsample's members, which must divide the picture's."""
        if min(*grid, side) < 1:
            raise InputError(f"entities: a grid of {grid}, side {side}; expected 1 or more")
        rows, columns = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
        if kind == "scale":
            return cls._of_scales(grid)
        if kind == "token":
            which = rows * grid[1] + columns
        elif kind == "cell":
            which = rows // side * -(-grid[1] // side) + columns // side
        elif kind == "subsample":
            if grid[0] % side or grid[1] % side:
                raise InputError(
                    f"VectorOptions.side: {side} does not divide a grid of {grid[0]} x {grid[1]}, "
                    "which subsamples need"
                )
            far = grid[0] // side, grid[1] // side
            which = rows % far[0] * far[1] + columns % far[1]
        elif kind == "image":
            which = torch.zeros_like(rows)
        else:
            raise InputError(f"VectorOptions.entity: {kind!r}, expected one of the documented")
        places, sizes = which.flatten().argsort(stable=True), which.flatten().bincount()
        return cls((grid,), tuple(places.tolist()), tuple(sizes.tolist()))

    @classmethod
    def _of_scales(cls, grid: tuple[int, int]) -> Self:
        """Sides double up to the picture's."""
        sides = [2**n for n in range(max(grid).bit_length()) if 2**n < max(grid)]
        pyramid = Pyramid(fitted((*sides, max(grid)), grid))
        return cls(pyramid.sizes, tuple(range(pyramid.length)), pyramid.counts)

    @classmethod
    def of_frames(cls, grid: tuple[int, int], frames: int) -> Self:
        """Every frame of a clip is an entity."""
        cells = grid[0] * grid[1]
        return cls((grid,) * frames, tuple(range(cells * frames)), (cells,) * frames, frames)

    # ---- values --------------------------------------------------------------------------------

    def gather(self, values: Tensor) -> Tensor:
        """(B, L, c) of the vectors (B, n, C) of pictures; c = C but for frames, C / frames."""
        if self.frames > 1:
            values = values.unflatten(2, (self.frames, -1)).transpose(1, 2).flatten(1, 2)
        elif len(self.grids) > 1:
            whole = values.transpose(1, 2).unflatten(2, self.grids[-1])
            smaller = [F.adaptive_avg_pool2d(whole, grid).flatten(2) for grid in self.grids[:-1]]
            values = torch.cat([*(part.transpose(1, 2) for part in smaller), values], dim=1)
        return values[:, self._places]

    def restore(self, values: Tensor) -> Tensor:
        """The vectors (B, n, C) of pictures that are drawn, (B, L, c); of scales the last."""
        values = values[:, self._places.argsort()]
        if self.frames > 1:
            return values.unflatten(1, (self.frames, -1)).transpose(1, 2).flatten(2)
        return values[:, -(self.grids[-1][0] * self.grids[-1][1]) :]

    # ---- positions -----------------------------------------------------------------------------

    @cached_property
    def _places(self) -> Tensor:
        return torch.tensor(self.places)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Where each entity lies among the L positions."""
        ends = torch.tensor(self.sizes).cumsum(dim=0).tolist()
        return tuple(slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True))

    def owner(self) -> Tensor:
        """(L,) int64: the entity of each position."""
        return torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes))

    def coordinates(self) -> Tensor:
        """(L, axes) float32: row and column, in places of the last grid; of clips the frame first.

        A cell of a smaller scale stands at its middle.
        """
        last, found = self.grids[-1], []
        for number, grid in enumerate(self.grids):
            axes = [
                (torch.arange(cells) + 0.5) * (whole / cells) - 0.5
                for cells, whole in zip(grid, last, strict=True)
            ]
            if self.frames > 1:
                axes = [torch.tensor([float(number)]), *axes]
            found.append(torch.cartesian_prod(*axes))
        return torch.cat(found)[self._places]


def in_blocks(sizes: Sequence[int], clean: bool = False, prefix: int = 0) -> Layout:
    """`prefix` words that all see, then entities of these sizes, of which each sees itself and what
    is before it.

    With `clean` there are two copies of all entities: first the clean ones, which see each other in
    this way, then noisy ones, of which each sees clean ones before it, and itself (the skip-causal
    mask of ACDiT, arXiv 2412.07720, section 3.2). A noisy entity lives for its own moment only.
    """
    blocks = units([prefix, *sizes] if prefix else sizes)
    words, place = torch.full((prefix,), -1), torch.arange(sum(sizes))
    if not clean:
        place = torch.cat((words, place))
        return replace(blocks, place=place, target=place)
    born, none = 2 * blocks.now[prefix:], torch.full_like(place, NO_TARGET)
    now = torch.cat((2 * blocks.now + 1, born))
    return Layout(
        torch.zeros_like(now),
        now,
        dies=torch.cat((blocks.dies, born + 1)),
        place=torch.cat((words, place, place)),
        target=torch.cat((words, none, place)),
    )
