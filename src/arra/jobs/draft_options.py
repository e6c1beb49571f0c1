"""Options of `arra generate` that need no torch: whether codes are guessed first, and by whom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from arra.errors import InputError


@dataclass(frozen=True)
class DraftOptions:
    """By whom codes are guessed, with `--sampler speculative`."""

    drafter: Literal["ngram", "model"] = "ngram"
    """Guesses by tri-grams, of a store and of the picture itself, which draws the same pictures; or
    by a smaller model, which draws others by the same law."""
    draft_from: Path | None = None
    """Of ngram a prepared store, whose tri-grams are then kept beside the checkpoint; of model the
    smaller checkpoint."""
    draft_nodes: int = 16
    """Guesses that a pass judges at most; of vectors so many units."""
    draft_last: float = 0.05
    """Of vectors: deviation of the noise that the last step of every vector adds, in the numbers
    of the head. The wider, the more guesses stay."""
    draft_prefill: float = 0.05
    """Of vectors: share of the units that the model draws first, alone."""
    draft_temperature: float = 1.0
    """Of vectors: the inner temperature of the test. Only 1 keeps the model's law; the paper's code
    has 42."""

    def __post_init__(self) -> None:
        if not 0 <= self.draft_nodes <= 1024:
            raise InputError(f"draft_nodes: {self.draft_nodes}, expected 0 to 1024")
