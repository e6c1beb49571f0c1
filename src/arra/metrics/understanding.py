"""Whether a model that draws also reads: captions and answers that are exactly right."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from arra.data.rows import Question
from arra.errors import InputError
from arra.metrics.bootstrap import bootstrap, mean_measured, ratio
from arra.metrics.measured import Measured


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


def described(
    model: Describes, codes: Tensor, prompts: Sequence[str] | None = None, *, batch: int = 256
) -> list[str]:
    """What the model says of pictures, codes (N, ...), so many at a time."""
    said: list[str] = []
    for start in range(0, len(codes), batch):
        here = slice(start, start + batch)
        said += model.describe(codes[here], None if prompts is None else prompts[here])
    return said


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
    right = exact_match(described(model, codes, prompts, batch=batch), wanted)
    return mean_measured(name, right, "none", rng)


def answered(
    name: str, right: np.ndarray, picture: np.ndarray, rng: np.random.Generator
) -> Measured:
    """The share of questions (Q,) that are answered right (1 or 0), asked about pictures (Q,).

    The interval redraws pictures with all of their questions, which are not independent.
    """
    _, which = np.unique(picture, return_inverse=True)
    sums, counts = np.bincount(which, right), np.bincount(which).astype(float)
    several = len(counts) > 1
    interval = bootstrap(sums, counts, rng=rng, statistic=ratio) if several else None
    return Measured(name, float(right.mean()), len(right), "none", interval)


def kind_of(question: str) -> str:
    """The kind of a question: its first two words, as in "how many"."""
    return " ".join(_words(question)[:2])


def likeliest_answers(known: Iterable[Question]) -> dict[str, str]:
    """The most frequent answer to each kind of question, the first of equally frequent ones: the
    best that can be said without knowing more than the kind."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one in known:
        counts[kind_of(one.question)][one.answer] += 1
    return {kind: found.most_common(1)[0][0] for kind, found in counts.items()}
