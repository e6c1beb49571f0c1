"""Rotary positions on any number of axes (LlamaGen's two, arXiv 2406.06525; RoPE-ND of ACDiT, arXiv
2412.07720, section 3.3).

Pairs of neighbouring dimensions turn together, every pair with one axis: a rotation, so norms stay
and what a query says of a key depends on their distance along each axis alone. (The released code
of ACDiT pairs dimension i with i + d / 2 across axes, which is none.)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from arra.errors import InputError

ConditionAttention = Literal["even", "content"]
"""How condition tokens take part in attention: with logits of 0 (LlamaGen), or as all others do,
standing at the first cell."""


def axes_table(coordinates: Tensor, dimensions: int, base: float) -> Tensor:
    """(T, d / 2, 2) float32: cosine and sine of every pair's angle, for `rotate`.

    Axes of coordinates (T, A) share the pairs evenly, the last ones have what is over: of 32 pairs
    and 3 axes 10, 11 and 11. The k-th of an axis's n pairs turns by base ** (-k / n) a place.
    """
    axes, pairs = coordinates.shape[1], dimensions // 2
    if dimensions % 2 or pairs < axes:
        raise InputError(
            f"axes_table: heads of {dimensions} dimensions, expected an even number of {2 * axes} "
            "or more"
        )
    angles = []
    for axis in range(axes):
        count = (pairs + axis) // axes
        speed = base ** (-torch.arange(count, dtype=torch.float32) / count)
        angles.append(torch.outer(coordinates[:, axis].float(), speed))
    angle = torch.cat(angles, dim=1)
    return torch.stack((angle.cos(), angle.sin()), dim=-1)


def rotary_table(
    grid: tuple[int, int],
    dimensions: int,
    base: float,
    condition: ConditionAttention = "even",
    span: tuple[int, int] | None = None,
) -> Tensor:
    """(1 + cells, d / 2, 2) float32: cosine and sine of every pair's angle.

    Row 0 is the condition's: zeros, or, for "content", angle 0. Row 1 + i is that of cell i in
    raster order: the first half of the pairs turns with the row, the second with the column, the
    k-th of either by base ** (-4 k / d) a cell. With `span` the grid reaches over so many rows and
    columns: row i of h stands where row i span / h would, so that grids of several sizes share one
    picture (FlowAR, arXiv 2412.15205).
    """
    if dimensions % 4:
        raise InputError(
            f"rotary_table: heads of {dimensions} dimensions, expected a multiple of 4"
        )
    sides = (
        torch.arange(side).float() * (whole / side)
        for side, whole in zip(grid, span or grid, strict=True)
    )
    cells = axes_table(torch.cartesian_prod(*sides), dimensions, base)
    first = still(cells, 1)
    return torch.cat((first if condition == "content" else 0.0 * first, cells))


def still(table: Tensor, count: int) -> Tensor:
    """(count, d / 2, 2) rows of angle 0, as those of a table (T, d / 2, 2)."""
    found = torch.zeros_like(table[:1])
    found[..., 0] = 1.0
    return found.expand(count, -1, -1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """(R, T, H, d): x turned by the rows of a rotary table, (R or 1, T, d / 2, 2)."""
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = table[:, :, None].unbind(-1)
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    return torch.stack(turned, dim=-1).flatten(-2).to(x.dtype)
