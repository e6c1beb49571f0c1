"""Whether a model that draws also reads: captions and answers that are exactly right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from arra.errors import InputError
from arra.metrics.bootstrap import bootstrap
from arra.metrics.measured import Interval, Measured


class Describes(Protocol):
    """What is measured: a generator that says what a picture shows."""

    def describe(self, codes: Tensor, prompts: Sequence[str] | None = None) -> list[str]:
        """Text of each of the pictures, codes (B, ...), going on after its prompt."""


def exact_match(said: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """(N,) float64: 1 where two texts are the same words and signs, whatever the case."""
    if len(said) != len(wanted):
        raise InputError(f"exact_match: {len(said)} texts for {len(wanted)} that are wanted")
    return np.array([_words(a) == _words(b) for a, b in zip(said, wanted, strict=True)], float)


def _words(text: str) -> list[str]:
    return text.lower().split()


def understanding(
    model: Describes,
    codes: Tensor,
    wanted: Sequence[str],
    prompts: Sequence[str] | None = None,
    *,
    rng: np.random.Generator,
    name: str = "exact captions",
    batch: int = 256,
) -> Measured:
    """The share of pictures, codes (N, ...), of which the model says exactly what is wanted; with
    `prompts` as the answer to a question or the rest of a caption. The interval is over pictures.
    """
    said: list[str] = []
    for start in range(0, len(codes), batch):
        here = slice(start, start + batch)
        said += model.describe(codes[here], None if prompts is None else prompts[here])
    right = exact_match(said, wanted)
    interval: Interval | None = bootstrap(right, rng=rng) if len(right) > 1 else None
    return Measured(name, float(right.mean()), len(right), "none", interval)
