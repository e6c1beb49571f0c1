"""Everything about the claim that is a number, and its arms."""

from __future__ import annotations

from dataclasses import dataclass, replace

from arra.settings import BatchConfig, Mixer, ScaleSize, ScanSize
from arra.training.config import TrainConfig

FULL: Mixer = "attention"
BOTH: Mixer = "intra+scan"
INTRA: Mixer = "intra"
SCAN: Mixer = "scan"
ARMS: tuple[Mixer, ...] = (FULL, BOTH, INTRA, SCAN)
"""VAR's block-causal attention; M-VAR's two paths; and each of them alone."""


@dataclass(frozen=True)
class Recipe:
    """Digits of 8 x 8 pixels as codes without loss, and four mixers at equal parameters."""

    size: ScaleSize
    """Of M-VAR; the others get wider feed-forward layers, so that all have as many parameters."""
    batch: BatchConfig
    train: TrainConfig
    crop: int = 0
    """Pixels by which training pictures are moved."""
    sides: tuple[tuple[int, ...], ...] = ((1, 2, 4, 8), (1, 2, 4, 8, 16), (1, 2, 4, 8, 16, 32))
    """Pyramids that are timed."""
    timed: int = 5
    """How often each is timed."""


def full() -> Recipe:
    """What the result comes from."""
    return Recipe(
        size=ScaleSize(
            width=64,
            depth=3,
            heads=4,
            feed_forward=192,
            gate=1e-2,
            inputs=10.0,
            scan=ScanSize(16, 3, 1),
        ),
        batch=BatchConfig(size=32, drop_caption=0.1, multiple=1),
        train=TrainConfig(
            steps=250,
            learning_rate=4e-3,
            weight_decay=0.05,
            warmup=50,
            schedule="linear",
            clip=2.0,
            precision="fp32",
            checkpoint_every=250,
            keep=1,
            log_every=50,
        ),
    )


def tiny() -> Recipe:
    """To see that it runs; nobody should read its numbers."""
    recipe = full()
    size = ScaleSize(width=16, depth=1, heads=2, feed_forward=16, scan=ScanSize(4, 3, 1))
    return replace(
        recipe,
        size=size,
        batch=replace(recipe.batch, size=8),
        train=replace(recipe.train, steps=3, warmup=1, checkpoint_every=3, log_every=1),
        sides=((1, 2), (1, 2, 4)),
        timed=1,
    )


RECIPES = {"full": full, "tiny": tiny}
