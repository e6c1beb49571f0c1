"""Rotary positions on any number of axes (RoPE-ND of ACDiT, arXiv 2412.07720, section 3.3).

Pairs of neighbouring dimensions turn together, every pair with one axis: a rotation, so norms stay
and what a query says of a key depends on their distance along each axis alone. (The released code
of ACDiT pairs dimension i with i + d / 2 across axes, which is none.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from arra.errors import InputError


def axes_table(coordinates: Tensor, dimensions: int, base: float) -> Tensor:
    """(T, d / 2, 2) float32: cosine and sine of every pair's angle, for `grid_llama.rotate`.

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
