"""Guidance without a classifier (arXiv 2207.12598), of logits, velocities and means alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def guide(conditional: Tensor, unconditional: Tensor, scale: float | Tensor) -> Tensor:
    """u + s (c - u) (LlamaGen, section 3.3)."""
    return unconditional + scale * (conditional - unconditional)


def guide_pairs(said: Tensor, scale: float | Tensor) -> Tensor:
    """(B, ...) float32 of what is said of pairs (2 B, ...): row i and, without caption, B + i."""
    conditional, unconditional = said.float().chunk(2)
    if isinstance(scale, float | int) and scale == 1.0:
        return conditional
    return guide(conditional, unconditional, scale)
