"""Distances between the sets of real and judged pictures, in everybody's eyes, at equal numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from arra.jobs.evaluation_parts import Eye, teachers
from arra.jobs.evidence import Evidence
from arra.metrics.frechet import (
    distance_to_statistics,
    fd_infinity,
    frechet_distance,
    frechet_floor,
    kernel_distance,
)
from arra.metrics.manifold import manifold_scores
from arra.metrics.measured import Measured

_NEIGHBOURS = 5


def distances(e: Evidence, rng: np.random.Generator) -> Iterator[Measured]:
    """Fréchet and kernel distance, floor, precision and recall, in every encoder, at equal n."""
    for eye in e.eyes:
        real = e.features(eye, "real", e.real.pictures)
        some, others = (real[rows] for rows in e.halves)
        _warn_of_eye(e, eye, real.shape[1])
        for arm in e.drawn:
            drawn = e.features(eye, f"drawn{arm.label}", arm.pictures)[e.judged]
            for found in _between(some, drawn, eye, rng):
                yield replace(found, name=found.name + arm.label)
        yield _titled(
            frechet_floor(
                real,
                e.sides,
                e.sides,
                encoder=eye.name,
                rng=rng,
                normalise=eye.normalise,
                repeats=20 if _cheap(real) else 3,
            ),
            eye,
        )
        floor = _kernel(some, others, eye, rng)
        yield _titled(replace(floor, name=f"{floor.name}, two real halves"), eye)


def _between(
    real: np.ndarray, drawn: np.ndarray, eye: Eye, rng: np.random.Generator
) -> Iterator[Measured]:
    """Everything that compares two sets of n features."""
    n, cheap = len(drawn), _cheap(real)
    options: dict[str, Any] = {"encoder": eye.name, "normalise": eye.normalise}
    yield _titled(frechet_distance(real, drawn, rng=rng if cheap else None, **options), eye)
    if n >= 10:
        repeats = 10 if cheap else 1
        limit = fd_infinity(real, drawn, rng=rng, repeats=repeats, **options)
        yield _titled(limit.measured, eye)
    yield _titled(_kernel(real, drawn, eye, rng), eye)
    scores = manifold_scores(real, drawn, k=min(_NEIGHBOURS, n - 1), **options)
    yield from (scores.precision, scores.recall, scores.density, scores.coverage)


def _kernel(real: np.ndarray, drawn: np.ndarray, eye: Eye, rng: np.random.Generator) -> Measured:
    # subsets well below n, so that they differ; 1000 as published where n allows it
    subset = max(2, min(1000, len(drawn) // 2))
    return kernel_distance(
        real, drawn, encoder=eye.name, rng=rng, subset=subset, normalise=eye.normalise
    )


def _cheap(features: np.ndarray) -> bool:
    """Whether a Fréchet distance takes milliseconds, so that a hundred resamples do not matter."""
    return min(features.shape) <= 512


def _titled(measured: Measured, eye: Eye) -> Measured:
    """ "FID" and "KID" stand for the published Inception weights only."""
    if not eye.fid:
        return measured
    name = measured.name.replace("Fréchet distance", "FID").replace("kernel distance", "KID")
    return replace(measured, name=name)


def _warn_of_eye(e: Evidence, eye: Eye, dimensions: int) -> None:
    if e.sides < 20 * dimensions:
        e.warnings.append(
            f"{eye.name}: n = {e.sides} is below 20 x {dimensions} dimensions: the Fréchet "
            "distance is mostly bias; read it against the floor, or the kernel distance"
        )
    if eye.identities & teachers(e.ground, e.job.checkpoint):
        e.warnings.append(
            f"{eye.name}: the generator was aligned with this encoder, so distances in it favour "
            "the generator by construction: judge by another encoder"
        )


def published_statistics(e: Evidence, rng: np.random.Generator) -> Iterator[Measured]:
    """Fréchet distance to real statistics of another program."""
    eye = e.eyes[0]
    assert e.statistics is not None
    assert e.inception is not None
    for arm in e.drawn:
        features = e.features(eye, f"drawn{arm.label}", arm.pictures)
        found = distance_to_statistics(e.statistics, features, encoder=eye.name)
        yield _titled(replace(found, name=f"{found.name} to given statistics{arm.label}"), eye)
