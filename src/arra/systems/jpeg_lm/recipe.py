"""Everything about the claim that is a number, and its arms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from arra.codecs.jpeg import JpegConfig
from arra.codecs.patches import PatchConfig
from arra.settings import LlamaSize, SamplingConfig
from arra.training.config import TrainConfig

JPEG, PIXELS, SQUARES, SCRAMBLED = "jpeg", "pixels", "vq", "scrambled"
ARMS = (JPEG, PIXELS, SQUARES, SCRAMBLED)
"""What the same language model writes: bytes of JPEG files; pixels (the baseline); squares of 4 x 4
pixels, quantised; and, as control, bytes of the same files under a fixed cipher: as many, with the
same information, but no longer those of a canonical codec."""
RATES = (1.5e-3, 3e-3, 6e-3)
"""Learning rates that were tried for every arm alike (`tuning.py`)."""
KNOWN = 8
"""The table of squares is fitted to digits below this one; the others are new to it."""


@dataclass(frozen=True)
class Recipe:
    """Digits of 16 x 16 grey pixels, four codecs, one language model.

    More pictures than a run can learn by heart: every digit is written several times, a little
    turned, moved and sized; with the 1200 digits alone a model of JPEG bytes remembers them.
    """

    jpeg: JpegConfig
    levels: int
    """Greys of a pixel."""
    squares: PatchConfig
    size: LlamaSize
    train: TrainConfig
    tokens: int
    """Positions in a step, about: pictures in a batch times the positions of one."""
    rates: dict[str, float]
    """Learning rate of each arm: the best of `RATES` for it."""
    side: int = 16
    """Pixels a side that digits are enlarged to."""
    variants: int = 12
    """How many times each training digit is written, turned, moved and sized anew."""
    held_out_variants: int = 3
    """The same of each held-out digit."""
    drawn: int = 1000
    """Pictures drawn of each model."""
    sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(guidance=1.0, top_k=50, top_p=0.9)
    )
    """How all of them draw: as the paper does (temperature 1, top-k 40 to 80, top-p 0.9 or 1)."""


def full() -> Recipe:
    """What the result comes from."""
    return Recipe(
        # Coarser than the paper's 25: files are a third shorter, and real digits through the codec
        # still nearer to the held-out ones than what any model here draws.
        jpeg=JpegConfig((2, 2), quality=10, subsampling="grey", vocabulary=320),
        levels=16,
        squares=PatchConfig(4, 64),
        size=LlamaSize(
            width=96, depth=3, heads=4, feed_forward=256, positions=320, rope_theta=100.0
        ),
        train=TrainConfig(
            steps=1000,
            optimizer="muon",
            muon_scale=3.0,
            weight_decay=0.05,
            warmup=25,
            schedule="cosine",
            precision="bf16",
            checkpoint_every=1000,
            keep=1,
            log_every=50,
        ),
        tokens=1024,
        rates={JPEG: 3e-3, PIXELS: 3e-3, SQUARES: 3e-3, SCRAMBLED: 6e-3},
    )


def tiny() -> Recipe:
    """To see that it runs; nobody should read its numbers."""
    recipe = full()
    return replace(
        recipe,
        size=LlamaSize(width=16, depth=1, heads=2, feed_forward=16, positions=320),
        train=replace(recipe.train, steps=3, warmup=1, checkpoint_every=3, log_every=1),
        tokens=600,
        drawn=60,
        variants=1,
        held_out_variants=1,
    )


RECIPES = {"full": full, "tiny": tiny}
