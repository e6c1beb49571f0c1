"""Draft trees of several rows side by side, each a table of lifetimes (`builders.tree`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from arra.errors import InputError
from arra.orders.builders import euler_tour
from arra.orders.layout import PADDING, visible


@dataclass(frozen=True)
class Trees:
    """B trees of up to T nodes, padded on the right."""

    depth: Tensor
    """(B, T) int64: how many nodes stand above; where a node's position is counted from."""
    real: Tensor
    """(B, T) bool: which are nodes and not padding."""
    sees: Tensor
    """(B, T, T) bool: row = query, column = key; a node sees its ancestors and itself, padding
    itself alone."""

    @classmethod
    def of(cls, parents: Sequence[Sequence[int]], device: torch.device | None = None) -> Self:
        """`parents[b][i]` < i is the parent of node i in row b, -1 for a root; `InputError`
        otherwise, or where no row has a node."""
        longest = max(map(len, parents), default=0)
        if longest == 0:
            raise InputError("Trees: no row has a node, expected at least one")
        columns: list[list[list[int]]] = []
        for row in parents:
            depth: list[int] = []
            enter, leave = euler_tour(row)
            for parent in row:
                depth.append(0 if parent < 0 else depth[parent] + 1)
            blank = [0] * (longest - len(row))
            padding = [PADDING] * len(blank)
            columns.append([[0] * len(row) + padding, depth + blank, enter + blank, leave + blank])
        segment, depths, now, dies = torch.tensor(columns).unbind(dim=1)
        sees = visible(segment, now, dies)
        return cls(depths.to(device), (segment != PADDING).to(device), sees.to(device))

    def twice(self) -> Self:
        """The same trees again in as many further rows: those of pairs without caption."""
        return type(self)(*(torch.cat((x, x)) for x in (self.depth, self.real, self.sees)))
