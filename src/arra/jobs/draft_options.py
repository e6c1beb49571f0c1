"""Options of `arra generate` that need no torch: whether codes are guessed first, and by whom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from arra.errors import InputError


@dataclass(frozen=True)
class DraftOptions:
    """By whom codes are guessed, with `--sampler speculative`, and which guesses stay."""

    drafter: Literal["ngram", "model", "eagle"] = "ngram"
    """Guesses by tri-grams, of a store and of the picture itself, which draws the same pictures; by
    a smaller model, which draws others by the same law; or by a drafter that `arra draft` trained
    for the checkpoint."""
    draft_from: Path | None = None
    """Of ngram a prepared store, whose tri-grams are then kept beside the checkpoint; of model the
    smaller checkpoint; of eagle the drafter, unless it is the one beside the checkpoint."""
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
    tree: Literal["static", "dynamic"] | None = None
    """Of eagle: static trees have one shape and draw their guesses, which gives other pictures by
    the same law; dynamic ones, the default, grow where the drafter is surest, which draws the same
    pictures."""
    draft_depth: int | None = None
    """Of eagle: guesses after one another at most; unless given 5."""
    relax_delta: float | None = None
    """Let a guess borrow up to this probability from codes that look like it (LANTERN): more
    guesses stay, and the pictures follow another law."""
    relax_ratio: float | None = None
    """The same with a bound that is so many times the guess's own probability, itself included
    (LANTERN++)."""
    relax_neighbours: int | None = None
    """How many codes may lend to one; unless given 1000, or all others."""

    def __post_init__(self) -> None:
        if not 0 <= self.draft_nodes <= 1024:
            raise InputError(f"draft_nodes: {self.draft_nodes}, expected 0 to 1024")
        if self.drafter != "eagle" and (self.tree, self.draft_depth) != (None, None):
            raise InputError("tree, draft_depth: only with --drafter eagle")
        if self.draft_depth is not None and not 1 <= self.draft_depth <= 64:
            raise InputError(f"draft_depth: {self.draft_depth}, expected 1 to 64")
        if None not in (self.relax_delta, self.relax_ratio):
            raise InputError("relax_delta, relax_ratio: two bounds of one thing, expected one")
        if self.relax_delta is not None and not 0.0 <= self.relax_delta <= 1.0:
            raise InputError(f"relax_delta: {self.relax_delta}, expected 0 to 1")
        if self.relax_ratio is not None and not 1.0 <= self.relax_ratio < 1e6:
            raise InputError(f"relax_ratio: {self.relax_ratio}, expected 1 or more")
        if self.relax_neighbours is not None:
            if not self.relaxed:
                raise InputError("relax_neighbours: only with --relax-delta or --relax-ratio")
            if self.relax_neighbours < 0:
                raise InputError(f"relax_neighbours: {self.relax_neighbours}, expected 0 or more")

    @property
    def relaxed(self) -> bool:
        """Whether guesses borrow."""
        return (self.relax_delta, self.relax_ratio) != (None, None)
