"""Everything about the claim that is a number, and its arms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from arra.experiments.digit_vectors import training
from arra.settings import BatchConfig, LlamaSize
from arra.training.config import TrainConfig

PLAIN, STRICT, NEAREST, RANDOM = "plain", "strict", "nearest", "random"
"""No guesses; lossless speculative decoding; LANTERN; and LANTERN with other codes at random in the
place of the nearest ones."""
CHAIN_STRICT, CHAIN_NEAREST, CHAIN_RATIO = "chain, strict", "chain, nearest", "chain, ratio"
"""The same with guesses that are drawn of the drafter's law, one after another; and LANTERN++."""


@dataclass(frozen=True)
class Arm:
    """A way to draw."""

    name: str
    lenders: str | None = None
    """Who may lend to a guess, `NEAREST` or `RANDOM`: nobody is lossless."""
    delta: float = 0.0
    ratio: float | None = None
    tree: Literal["dynamic", "chain"] = "dynamic"
    """Guesses that are given, where the drafter is surest (EAGLE-2, and so LANTERN); or a chain of
    guesses drawn of its law (static trees, as in LANTERN++)."""


@dataclass(frozen=True)
class Recipe:
    """Digits of 4 x 4 codes, a target, a drafter of its features, and ways to draw."""

    codes: int = 128
    """Centres of k-means over squares of 2 x 2 pixels."""
    spread: float = 1.0
    """A square's code is any that is not farther than the nearest one by more than this, in
    distances of squares of three colours from -1 to 1; the table has eight such on average."""
    size: LlamaSize = field(
        default_factory=lambda: LlamaSize(
            width=96, depth=4, heads=4, feed_forward=256, positions=32, rope_theta=100.0
        )
    )
    batch: BatchConfig = field(
        default_factory=lambda: BatchConfig(size=32, drop_caption=0.0, multiple=1)
    )
    train: TrainConfig = field(default_factory=lambda: training(800, 2e-3))
    learn: TrainConfig = field(default_factory=lambda: training(500, 2e-3))
    """Of the drafter."""
    nodes: int = 16
    """Guesses that a pass judges at most."""
    depth: int = 4
    """Of these one after another."""
    width: int = 8
    """Of a dynamic tree: nodes that are gone on from, and successors of each, on every level."""
    neighbours: int = 8
    """Who may lend at most: V / 16."""
    delta: float = 0.2
    ratio: float = 3.0
    """LANTERN++'s lambda."""
    sweep: tuple[float, ...] = (0.05, 0.1, 0.4)
    """Further bounds of nearest lenders, growing; the last of random ones, too."""
    drawn: int = 500
    """Digits that are drawn in every way."""
    looked_at: int = 100
    """Decisions of which the exact law is computed in every way."""

    @property
    def arms(self) -> tuple[Arm, ...]:
        """All ways to draw but the plain one."""
        delta = self.delta
        swept = [
            Arm(f"{lenders}, {bound:g}", lenders, bound)
            for lenders, bounds in ((NEAREST, self.sweep), (RANDOM, self.sweep[-1:]))
            for bound in bounds
        ]
        return (
            Arm(STRICT),
            Arm(NEAREST, NEAREST, delta),
            Arm(RANDOM, RANDOM, delta),
            Arm(CHAIN_STRICT, tree="chain"),
            Arm(CHAIN_NEAREST, NEAREST, delta, tree="chain"),
            Arm(CHAIN_RATIO, NEAREST, ratio=self.ratio, tree="chain"),
            *swept,
        )


def tiny() -> Recipe:
    """To see that it runs; nobody should read its numbers."""
    return replace(
        Recipe(),
        codes=16,
        size=LlamaSize(width=16, depth=1, heads=2, feed_forward=16, positions=32),
        batch=BatchConfig(size=8, drop_caption=0.0, multiple=1),
        train=training(2, 1e-3),
        learn=training(2, 1e-3),
        neighbours=3,
        sweep=(0.4,),
        drawn=20,
        looked_at=4,
    )


RECIPES = {"full": Recipe, "tiny": tiny}
