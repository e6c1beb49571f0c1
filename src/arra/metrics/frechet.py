"""Distances between two sets of feature vectors: Fréchet, its floor and limit, and kernel MMD.

Everything is float64: in float32 the root of a nearly singular covariance gives nonsense. The
feature extractor is always named in the result, for a distance means nothing without it.

The Fréchet distance of finite samples is biased upwards. For two samples of n from one law with
unit covariance in d dimensions, its expected value is about `expected_floor(d, n)`; it depends on
the law, so equal n does not cure it. Therefore report it with `frechet_floor` (two disjoint
real samples of the same sizes) or `fd_infinity`, or use `kernel_distance`, which is unbiased. Take
n >= 20 d.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from arra.errors import InputError
from arra.files import atomic_file
from arra.metrics.measured import Interval, Measured

Normalisation = Literal["none", "standardise", "whiten"]


@dataclass(frozen=True)
class Gaussian:
    """Mean (d,) and covariance (d, d) of features."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Gaussian:
        """Fitted to features (n, d), with the unbiased covariance."""
        x = checked(features, "features")
        return cls(x.mean(axis=0), np.atleast_2d(np.cov(x, rowvar=False)))

    @classmethod
    def load(cls, path: str | Path) -> Gaussian:
        """From an `.npz` with `mu` (d,) and `sigma` (d, d), as clean-fid and ADM publish them.

        Raises `InputError` when the arrays are missing, do not fit or are no covariance.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                mean, covariance = (np.asarray(arrays[key], np.float64) for key in ("mu", "sigma"))
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: expected an .npz with mu and sigma ({error})") from error
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise InputError(f"{path}: mu {mean.shape} and sigma {covariance.shape} do not fit")
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise InputError(f"{path}: mu and sigma are not all finite")
        if not np.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6):
            raise InputError(f"{path}: sigma is not symmetric, so it is no covariance")
        return cls(mean, (covariance + covariance.T) / 2)

    def save(self, path: str | Path) -> None:
        """Write an `.npz` that `load` (and clean-fid) reads."""
        with atomic_file(path) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, mu=self.mean, sigma=self.covariance)


def checked(features: np.ndarray, name: str, least: int = 2) -> np.ndarray:
    """Features (n, d) as float64; `InputError` when the shape is wrong or a value is not finite."""
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or len(x) < least or x.shape[1] < 1:
        raise InputError(f"{name}: shape {x.shape}, expected (n >= {least}, d)")
    if not np.isfinite(x).all():
        raise InputError(f"{name}: row {int(np.argmin(np.isfinite(x).all(axis=1)))} is not finite")
    return x


def gaussian_distance(a: Gaussian, b: Gaussian) -> float:
    """Squared 2-Wasserstein distance of two Gaussians (Dowson and Landau 1982).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2). The symmetric form has real eigenvalues,
    so that no imaginary part need be thrown away.
    """
    if a.mean.shape != b.mean.shape:
        raise InputError(f"features of {len(a.mean)} and {len(b.mean)} dimensions do not compare")
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    inner = root @ b.covariance @ root
    cross = np.sqrt(np.clip(np.linalg.eigvalsh((inner + inner.T) / 2), 0, None)).sum()
    gap = a.mean - b.mean
    total = gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    return max(0.0, float(total))


def sample_distance(first: np.ndarray, second: np.ndarray) -> float:
    """`gaussian_distance` of the Gaussians fitted to features (n, d) and (m, d) float64.

    With fewer rows than dimensions the trace of the root is the sum of the singular values of the
    (n, m) product of the centred rows, so that no (d, d) matrix is decomposed.
    """
    if min(len(first), len(second)) >= first.shape[1]:
        return gaussian_distance(Gaussian.of(first), Gaussian.of(second))
    means = first.mean(axis=0), second.mean(axis=0)
    a, b = (
        (x - mean) / np.sqrt(len(x) - 1) for x, mean in zip((first, second), means, strict=True)
    )
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    gap = means[0] - means[1]
    return max(0.0, float(gap @ gap + (a * a).sum() + (b * b).sum() - 2 * cross))


def normalised(
    real: np.ndarray, others: Sequence[np.ndarray], how: Normalisation
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Features rescaled by the statistics of the real ones, so that no loud unit dominates.

    "standardise" divides each dimension by its real standard deviation, "whiten" makes the real
    covariance the identity. Dimensions or directions without real spread are dropped.
    """
    real = checked(real, "real")
    rest = [checked(x, "features") for x in others]
    if how == "none":
        return real, rest
    mean = real.mean(axis=0)
    if how == "standardise":
        spread = real.std(axis=0)
        kept = spread > 1e-12 * max(1.0, float(spread.max()))
        basis = np.diag(1 / np.where(kept, spread, 1.0))[:, kept]
    elif how == "whiten":
        values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(real, rowvar=False)))
        kept = values > 1e-10 * max(float(values.max()), 1e-300)
        basis = vectors[:, kept] / np.sqrt(values[kept])
    else:
        raise InputError(f"normalise: {how!r}, expected none, standardise or whiten")
    if not kept.any():
        raise InputError("real: no feature varies, there is nothing to compare")
    return (real - mean) @ basis, [(x - mean) @ basis for x in rest]


def frechet_distance(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    encoder: str,
    normalise: Normalisation = "standardise",
    rng: np.random.Generator | None = None,
    resamples: int = 100,
) -> Measured:
    """Fréchet distance of features (n, d) and (m, d).

    With `rng`, the interval is the spread of the value over bootstrap samples of both sets, centred
    on the value: duplicates raise the bias, so that only the spread of the resamples is usable.
    """
    real, (generated,) = normalised(real, [generated], normalise)
    value = sample_distance(real, generated)
    interval = None
    if rng is not None:
        drawn = [
            sample_distance(
                real[rng.integers(len(real), size=len(real))],
                generated[rng.integers(len(generated), size=len(generated))],
            )
            for _ in range(resamples)
        ]
        low, high = np.quantile(drawn, [0.025, 0.975]) - np.mean(drawn) + value
        interval = Interval(value, float(low), float(high), 0.95, "centred bootstrap over pictures")
    details: dict[str, float | int | str] = {
        "n_real": len(real),
        "dimensions": real.shape[1],
        "normalise": normalise,
    }
    return Measured("Fréchet distance", value, len(generated), encoder, interval, details)


def distance_to_statistics(real: Gaussian, generated: np.ndarray, *, encoder: str) -> Measured:
    """Fréchet distance of features (n, d) to statistics that somebody else made.

    Not normalised, for that needs the real features. Comparable only if they were made in the same
    encoder, from pictures resized in the same way.
    """
    x = checked(generated, "generated")
    if x.shape[1] != len(real.mean):
        raise InputError(
            f"features of {x.shape[1]} dimensions do not compare with statistics of "
            f"{len(real.mean)}"
        )
    if len(x) >= x.shape[1]:
        value = gaussian_distance(real, Gaussian.of(x))
    else:  # the roots of the (n, n) product are those of the (d, d) one, the rest are 0
        mean = x.mean(axis=0)
        rows = (x - mean) / np.sqrt(len(x) - 1)
        roots = np.sqrt(np.clip(np.linalg.eigvalsh(rows @ real.covariance @ rows.T), 0, None))
        gap = real.mean - mean
        spread = np.trace(real.covariance) + (rows * rows).sum()
        value = max(0.0, float(gap @ gap + spread - 2 * roots.sum()))
    details: dict[str, float | int | str] = {"dimensions": x.shape[1], "normalise": "none"}
    return Measured("Fréchet distance", value, len(x), encoder, None, details)


def expected_floor(dimensions: int, n: int) -> float:
    """Expected Fréchet distance of two samples of n from one Gaussian with unit covariance.

    2 d / n from the means (exact) and d (d + 1) / (2 n), to first order, from the covariances.
    Standardised but correlated features have a lower floor: fewer directions carry the variance.
    """
    return 2 * dimensions / n + dimensions * (dimensions + 1) / (2 * n)


def frechet_floor(
    real: np.ndarray,
    n_real: int,
    n_generated: int,
    *,
    encoder: str,
    rng: np.random.Generator,
    normalise: Normalisation = "standardise",
    repeats: int = 20,
) -> Measured:
    """Fréchet distance between two disjoint real samples of the sizes of a comparison.

    The interval spans the repeats (random splits): a difference between two methods that is
    smaller than it is no result. All splits come from one pool, so give a pool well above
    n_real + n_generated.
    """
    real, _ = normalised(real, [], normalise)
    if n_real < 2 or n_generated < 2 or n_real + n_generated > len(real):
        raise InputError(
            f"frechet_floor: samples of {n_real} and {n_generated} do not fit disjointly into "
            f"{len(real)} real pictures"
        )
    values = []
    for _ in range(repeats):
        order = rng.permutation(len(real))
        first, second = order[:n_real], order[n_real : n_real + n_generated]
        values.append(sample_distance(real[first], real[second]))
    low, high = np.quantile(values, [0.025, 0.975])
    value = float(np.mean(values))
    interval = Interval(value, float(low), float(high), 0.95, "random disjoint splits")
    details: dict[str, float | int | str] = {
        "n_real": n_real,
        "repeats": repeats,
        "normalise": normalise,
    }
    if normalise == "whiten":  # the formula holds for uncorrelated features only
        expected = expected_floor(real.shape[1], n_real) / 2
        expected += expected_floor(real.shape[1], n_generated) / 2
        details["expected"] = round(expected, 4)
    return Measured("Fréchet distance, floor", value, n_generated, encoder, interval, details)


@dataclass(frozen=True)
class Extrapolation:
    """A Fréchet distance for infinite samples and the line that leads to it."""

    measured: Measured
    sizes: tuple[int, ...]
    distances: tuple[float, ...]
    """Mean over the repeats, one for each size."""
    slope: float
    """Bias times n."""


def fd_infinity(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    encoder: str,
    rng: np.random.Generator,
    sizes: Sequence[int] | None = None,
    repeats: int = 10,
    normalise: Normalisation = "standardise",
) -> Extrapolation:
    """The straight line in 1/n through distances of samples of n from both sets, at 1/n = 0.

    After Chong and Forsyth 2020 (arXiv 1911.07023), with both sets subsampled. `sizes` are at least
    five, by default from a fifth of the smaller set to all of it, evenly in 1/n. The interval is
    that of the fit's intercept; the subsets overlap, so it is a lower bound of the uncertainty.
    """
    real, (generated,) = normalised(real, [generated], normalise)
    most = min(len(real), len(generated))
    if sizes is None:
        sizes = [round(most / share) for share in np.linspace(5, 1, 8)]
    if len(set(sizes)) < 5 or min(sizes) < 2 or max(sizes) > most:
        raise InputError(f"fd_infinity: expected at least five sizes between 2 and {most}")
    from scipy import stats

    means = []
    for n in sizes:
        values = []
        for _ in range(repeats):
            first = real[rng.choice(len(real), size=n, replace=False)]
            second = generated[rng.choice(len(generated), size=n, replace=False)]
            values.append(sample_distance(first, second))
        means.append(float(np.mean(values)))
    fit = stats.linregress(1 / np.asarray(sizes, dtype=np.float64), means)
    value = float(fit.intercept)
    half = float(stats.t.ppf(0.975, len(sizes) - 2)) * float(fit.intercept_stderr)
    interval = Interval(value, value - half, value + half, 0.95, "intercept of the line in 1/n")
    details: dict[str, float | int | str] = {"repeats": repeats, "normalise": normalise}
    measured = Measured("Fréchet distance, n -> infinity", value, most, encoder, interval, details)
    return Extrapolation(measured, tuple(int(n) for n in sizes), tuple(means), float(fit.slope))


def kernel_distance(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    encoder: str,
    rng: np.random.Generator,
    subset: int = 1000,
    subsets: int = 50,
    normalise: Normalisation = "standardise",
) -> Measured:
    """Kernel distance: unbiased MMD^2 with the kernel (x.y / d + 1)^3 (Binkowski et al. 2018).

    The mean over random subsets, and the interval of that mean over the subsets (they overlap when
    `subsets * subset` exceeds the sets, so it is a lower bound). It may be negative: its expected
    value for equal laws is 0.
    """
    import torch
    from torchmetrics.image.kid import poly_mmd

    real, (generated,) = normalised(real, [generated], normalise)
    subset = min(subset, len(real), len(generated))
    values = []
    for _ in range(subsets):
        first = real[rng.choice(len(real), size=subset, replace=False)]
        second = generated[rng.choice(len(generated), size=subset, replace=False)]
        values.append(float(poly_mmd(torch.from_numpy(first), torch.from_numpy(second))))
    value = float(np.mean(values))
    half = 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if subsets > 1 else 0.0
    interval = Interval(value, value - half, value + half, 0.95, "mean over subsets")
    details: dict[str, float | int | str] = {
        "n_real": len(real),
        "subset": subset,
        "subsets": subsets,
        "normalise": normalise,
    }
    return Measured("kernel distance", value, len(generated), encoder, interval, details)
