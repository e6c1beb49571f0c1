"""Precision, recall, density and coverage: how two sets of features lie among each other.

Precision and recall after Kynkaanniemi et al. 2019, density and coverage after Naeem et al. 2020.
All four depend on n, k and the features: compare only at equal sizes, and state them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from arra.errors import InputError
from arra.metrics.frechet import Normalisation, checked, normalised
from arra.metrics.measured import Measured
from arra.metrics.neighbours import distance_blocks


@dataclass(frozen=True)
class ManifoldScores:
    """The four scores."""

    precision: Measured
    """Share of generated pictures inside the ball of some real one (its k-th real neighbour)."""
    recall: Measured
    """Share of real pictures inside the ball of some generated one."""
    density: Measured
    """Mean number of real balls around a generated picture, over k; may exceed 1."""
    coverage: Measured
    """Share of real balls that hold a generated picture."""


def _radii(features: np.ndarray, k: int, block: int) -> torch.Tensor:
    """(n,) distance of each row to its k-th nearest other row."""
    found = []
    for _, table in distance_blocks(features, features, block):
        # the smallest is the row itself, or a copy of it: either way at distance 0
        found.append(table.kthvalue(k + 1, dim=1).values)
    return torch.cat(found)


def manifold_scores(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    encoder: str,
    k: int = 5,
    normalise: Normalisation = "standardise",
    block: int = 512,
) -> ManifoldScores:
    """Precision, recall, density and coverage of features (n, d) and (m, d) with k neighbours.

    A point counts as inside a ball when it is strictly inside or exactly at the centre, so that
    identical sets score 1 on all four, duplicates in them or not.
    """
    if k < 1:
        raise InputError(f"k: {k}, expected at least 1")
    real, generated = checked(real, "real", k + 1), checked(generated, "generated", k + 1)
    real, (generated,) = normalised(real, [generated], normalise)
    real_radii = _radii(real, k, block)
    generated_radii = _radii(generated, k, block)
    balls = torch.zeros(len(generated), dtype=torch.float64)
    recalled = torch.zeros(len(real), dtype=torch.bool)
    covered = torch.zeros(len(real), dtype=torch.bool)
    for rows, table in distance_blocks(real, generated, block):
        same = table == 0
        in_real = (table < real_radii[rows, None]) | same
        in_generated = (table < generated_radii[None, :]) | same
        balls += in_real.sum(dim=0)
        recalled[rows] = in_generated.any(dim=1)
        covered[rows] = in_real.any(dim=1)
    details: dict[str, float | int | str] = {
        "n_real": len(real),
        "k": k,
        "normalise": normalise,
    }

    def result(name: str, value: torch.Tensor) -> Measured:
        share = float(value.double().mean())
        return Measured(name, share, len(generated), encoder, None, details)

    return ManifoldScores(
        result("precision", balls > 0),
        result("recall", recalled),
        result("density", balls / k),
        result("coverage", covered),
    )
