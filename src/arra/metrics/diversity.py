"""How different the pictures of one prompt are. Less *and* more than real pictures is an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from arra.errors import InputError
from arra.metrics.bootstrap import bootstrap
from arra.metrics.measured import Measured
from arra.pixels import to_share

# Weights of the five scales, finest first (Wang et al. 2003, section 3.3).
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


@dataclass(frozen=True)
class Scales:
    """How MS-SSIM looks at a picture; values of different scales do not compare."""

    window: int
    """Side of the Gaussian window, in pixels of each scale."""
    sigma: float
    """Standard deviation of the window; torchmetrics cuts it at 3.5 of them."""
    weights: tuple[float, ...]
    """One for each scale, finest first; they sum to 1."""


def scales_for(side: int) -> Scales:
    """The published five scales and window of 11 from 176 pixels on, fewer scales and 7 below.

    The window must fit the coarsest picture with room to move: 24 pixels allow two scales.
    """
    if side >= 176:
        count, window, sigma = 5, 11, 1.5
    elif side >= 10:
        # the second condition is torchmetrics' own, stricter than geometry asks
        fits = [c for c in (1, 2, 3, 4) if side // 2 ** (c - 1) >= 10 and side > 7 * (c - 1) ** 2]
        count, window, sigma = max(fits), 7, 0.8
    else:
        raise InputError(f"pictures of {side} pixels are too small for SSIM, expected at least 10")
    total = sum(_WEIGHTS[:count])
    return Scales(window, sigma, tuple(w / total for w in _WEIGHTS[:count]))


def ms_ssim(
    first: np.ndarray, second: np.ndarray, scales: Scales | None = None, batch: int = 256
) -> np.ndarray:
    """MS-SSIM (N,) of pairs of pictures (N, H, W, 3) uint8; 1 is identical.

    By torchmetrics, with its "relu" normalisation: negative contrast terms count as 0.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    if first.shape != second.shape or first.ndim != 4 or first.dtype != np.uint8:
        raise InputError(
            f"ms_ssim: {first.dtype} {first.shape} and {second.shape}, "
            "expected two equal uint8 (N, H, W, 3)"
        )
    scales = scales or scales_for(min(first.shape[1:3]))
    values = []
    for start in range(0, len(first), batch):
        a, b = (to_share(x[start : start + batch]) for x in (first, second))
        values.append(
            multiscale_structural_similarity_index_measure(
                a,
                b,
                gaussian_kernel=True,
                sigma=scales.sigma,
                kernel_size=scales.window,
                reduction="none",
                data_range=1.0,
                betas=scales.weights,
                normalize="relu",
            ).reshape(-1)
        )
    return torch.cat(values).double().numpy() if values else np.zeros(0)


def pairs_within(
    groups: Sequence[int], rng: np.random.Generator, most_per_group: int | None = None
) -> np.ndarray:
    """Pairs (P, 2) of indices of pictures with the same group number, such as the prompt's.

    At most `most_per_group` random ones of each group, so that large groups do not dominate.
    """
    labels = np.asarray(groups)
    found: list[tuple[int, int]] = []
    for label in np.unique(labels):
        mine = list(combinations(np.flatnonzero(labels == label).tolist(), 2))
        if most_per_group is not None and len(mine) > most_per_group:
            chosen = rng.choice(len(mine), size=most_per_group, replace=False)
            mine = [mine[i] for i in chosen]
        found += mine
    return np.asarray(found, dtype=np.int64).reshape(-1, 2)


@dataclass(frozen=True)
class Diversity:
    """Likeness within prompts, generated beside real."""

    generated: Measured
    real: Measured

    @property
    def gap(self) -> float:
        """Generated minus real: 0 is right, both signs are wrong."""
        return self.generated.value - self.real.value


def _over_groups(
    values: np.ndarray,
    pairs: np.ndarray,
    groups: Sequence[int],
    name: str,
    encoder: str,
    rng: np.random.Generator,
    details: dict[str, float | int | str],
) -> Measured:
    """Mean over groups of their mean over pairs; the interval is over groups, as pairs overlap."""
    labels = np.asarray(groups)[pairs[:, 0]]
    means = np.asarray([values[labels == label].mean() for label in np.unique(labels)])
    interval = bootstrap(means, rng=rng) if len(means) > 1 else None
    return Measured(
        name,
        float(means.mean()),
        len(values),
        encoder,
        interval,
        {"prompts": len(means), **details},
    )


def ssim_diversity(
    generated: np.ndarray,
    generated_groups: Sequence[int],
    real: np.ndarray,
    real_groups: Sequence[int],
    *,
    rng: np.random.Generator,
    most_per_group: int | None = 10,
) -> Diversity:
    """Mean MS-SSIM of pairs of pictures (N, H, W, 3) uint8 of one prompt; low is diverse."""
    scales = scales_for(min(generated.shape[1:3]))
    details: dict[str, float | int | str] = {
        "scales": len(scales.weights),
        "window": scales.window,
        "sigma": scales.sigma,
    }

    def one(pictures: np.ndarray, groups: Sequence[int], which: str) -> Measured:
        pairs = _pairs(groups, rng, most_per_group, which)
        values = ms_ssim(pictures[pairs[:, 0]], pictures[pairs[:, 1]], scales)
        return _over_groups(values, pairs, groups, f"MS-SSIM, {which}", "none", rng, details)

    return Diversity(one(generated, generated_groups, "generated"), one(real, real_groups, "real"))


def feature_diversity(
    generated: np.ndarray,
    generated_groups: Sequence[int],
    real: np.ndarray,
    real_groups: Sequence[int],
    *,
    encoder: str,
    rng: np.random.Generator,
    most_per_group: int | None = 10,
) -> Diversity:
    """Mean Euclidean distance of features (N, d) of pairs of one prompt; high is diverse."""

    def one(features: np.ndarray, groups: Sequence[int], which: str) -> Measured:
        x = np.asarray(features, dtype=np.float64)
        pairs = _pairs(groups, rng, most_per_group, which)
        values = np.linalg.norm(x[pairs[:, 0]] - x[pairs[:, 1]], axis=1)
        name = f"feature distance, {which}"
        return _over_groups(values, pairs, groups, name, encoder, rng, {})

    return Diversity(one(generated, generated_groups, "generated"), one(real, real_groups, "real"))


def _pairs(
    groups: Sequence[int], rng: np.random.Generator, most: int | None, which: str
) -> np.ndarray:
    pairs = pairs_within(groups, rng, most)
    if not len(pairs):
        raise InputError(f"{which}: no two pictures share a prompt, so diversity has no pairs")
    return pairs
