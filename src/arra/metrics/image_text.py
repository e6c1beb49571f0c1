"""Image-text score: how near pictures and captions lie in a pair of towers (`towers`).

The value is the mean raw cosine: not times 100 or 2.5, and not clipped at 0, as others do.
It is circular when the generator was aligned to the same picture tower: score with another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from arra.errors import InputError
from arra.metrics.bootstrap import bootstrap
from arra.metrics.measured import Measured

PictureFeatures = Callable[[np.ndarray], np.ndarray]
"""Pictures (N, H, W, 3) uint8 to features (N, d)."""
TextFeatures = Callable[[Sequence[str]], np.ndarray]
"""N captions to features (N, d)."""


@dataclass(frozen=True)
class ImageTextScore:
    """Agreement of pictures with their captions, and with wrong ones."""

    matched: Measured
    """Mean cosine of each picture and its own caption."""
    shuffled: Measured
    """Mean cosine over all wrong pairs of the set: what the towers say without agreement."""
    cosines: np.ndarray
    """(N,) of the matched pairs."""


def image_text_score(
    pictures: np.ndarray,
    captions: Sequence[str],
    *,
    picture_features: PictureFeatures,
    text_features: TextFeatures,
    encoder: str,
    rng: np.random.Generator,
) -> ImageTextScore:
    """Score pictures (N, H, W, 3) uint8 against N captions in the towers that `encoder` names."""
    if len(pictures) != len(captions) or len(captions) < 2:
        raise InputError(
            f"image_text_score: {len(pictures)} pictures for {len(captions)} captions, "
            "expected the same number, at least two"
        )
    a = _unit(picture_features(pictures), "picture features")
    b = _unit(text_features(captions), "text features")
    if a.shape != b.shape:
        raise InputError(f"the towers give {a.shape} and {b.shape}, expected equal shapes")
    cosines = np.einsum("nd,nd->n", a, b)
    n = len(cosines)
    wrong = float((a.sum(axis=0) @ b.sum(axis=0) - cosines.sum()) / (n * (n - 1)))
    interval = bootstrap(cosines, rng=rng)
    return ImageTextScore(
        Measured("image-text cosine", float(cosines.mean()), n, encoder, interval),
        Measured("image-text cosine, wrong pairs", wrong, n * (n - 1), encoder),
        cosines,
    )


def _unit(features: np.ndarray, name: str) -> np.ndarray:
    x = np.asarray(features, dtype=np.float64)
    norms = np.linalg.norm(x, axis=-1, keepdims=True)
    if x.ndim != 2 or not np.isfinite(x).all() or (norms == 0).any():
        raise InputError(f"{name}: expected finite (N, d) without zero rows, got shape {x.shape}")
    return x / norms
