"""Layout: every position of a sequence has a lifetime, and that is the whole of attention masking.

A layout is a table of integers, one column per position. The one rule:

    query q sees key k  <=>  same segment, and now[k] <= now[q] < dies[k]

An order of generation is a function that builds the table; masks, positions and targets follow.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from arra.errors import InputError

FOREVER = torch.iinfo(torch.int64).max
"""`dies` of a position that is seen by everything after it."""
PADDING = -1
"""`segment` of a position that belongs to no sample."""
NO_TARGET = -1
"""`target` of a position whose output predicts nothing."""


@dataclass(frozen=True)
class Layout:
    """One row of T positions; every field is an int64 tensor (T,).

    Several samples may share a row (packing): they differ in `segment` and do not see each other.
    """

    segment: Tensor
    """Which sample the position belongs to; `PADDING` for none."""
    now: Tensor
    """The moment at which the position looks."""
    dies: Tensor
    """The moment from which the position is no longer seen; `FOREVER` for never."""
    place: Tensor
    """Which unit of the signal stands here, in raster order; -1 for text and control tokens."""
    target: Tensor
    """Which unit of the signal the output here predicts; `NO_TARGET` for none."""

    def __post_init__(self) -> None:
        lengths = {f.name: tuple(getattr(self, f.name).shape) for f in fields(self)}
        if len(set(lengths.values())) != 1 or len(self.segment.shape) != 1:
            raise InputError(f"Layout: expected columns of one length, got {lengths}")
        alive = self.segment != PADDING
        if bool((self.dies <= self.now)[alive].any()):
            raise InputError("Layout: a position dies before it has seen itself (dies <= now)")

    def __len__(self) -> int:
        return len(self.segment)

    def sees(self) -> Tensor:
        """(T, T) bool: row = query, column = key."""
        return visible(self.segment, self.now, self.dies)

    def order(self) -> Tensor:
        """(T,) int64: the position within its own segment, counted from 0; 0 for padding."""
        position = torch.zeros_like(self.segment)
        for segment in self.segment.unique().tolist():
            if segment != PADDING:
                mine = self.segment == segment
                position[mine] = torch.arange(int(mine.sum()), device=position.device)
        return position

    def padded(self, length: int, side: str = "right") -> Self:
        """The same layout with padding up to `length` positions on the left or the right."""
        extra = length - len(self)
        if extra < 0 or side not in ("left", "right"):
            raise InputError(f"Layout.padded: {len(self)} positions do not fit {length} ({side})")
        blank = {"segment": PADDING, "now": 0, "dies": FOREVER, "place": -1, "target": NO_TARGET}
        columns = {}
        for name, value in blank.items():
            column = getattr(self, name)
            fill = column.new_full((extra,), value)
            parts = (fill, column) if side == "left" else (column, fill)
            columns[name] = torch.cat(parts)
        return type(self)(**columns)


def visible(segment: Tensor, now: Tensor, dies: Tensor | int = FOREVER) -> Tensor:
    """(..., T, T) bool of columns (..., T): the one rule, row = query, column = key.

    Padding is seen by nobody but itself, so that no row is empty.
    """
    if isinstance(dies, int):
        dies = torch.full_like(now, dies)
    same = segment[..., :, None] == segment[..., None, :]
    born = now[..., None, :] <= now[..., :, None]
    alive = now[..., :, None] < dies[..., None, :]
    real = (segment != PADDING)[..., None, :]
    itself = torch.eye(segment.shape[-1], dtype=torch.bool, device=segment.device)
    return (same & born & alive & real) | (itself & ~real)


def packed(layouts: list[Layout]) -> Layout:
    """One row that holds the layouts one after another as segments 0, 1, 2, ..."""
    if not layouts:
        raise InputError("packed: expected at least one layout")
    columns: dict[str, list[Tensor]] = {f.name: [] for f in fields(Layout)}
    for number, layout in enumerate(layouts):
        for name, parts in columns.items():
            column = getattr(layout, name)
            if name == "segment":
                column = torch.where(column == PADDING, column, torch.full_like(column, number))
            parts.append(column)
    return Layout(**{name: torch.cat(parts) for name, parts in columns.items()})


def same_moments(now: Tensor, dies: Tensor | None = None) -> Layout:
    """A layout of one segment from its moments alone; targets and places are left open."""
    none = torch.full_like(now, -1)
    if dies is None:
        dies = torch.full_like(now, FOREVER)
    return Layout(torch.zeros_like(now), now, dies, none, none.clone())
