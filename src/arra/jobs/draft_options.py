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
    """Guesses that a pass judges at most."""

    def __post_init__(self) -> None:
        if not 0 <= self.draft_nodes <= 1024:
            raise InputError(f"draft_nodes: {self.draft_nodes}, expected 0 to 1024")
