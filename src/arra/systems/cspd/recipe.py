"""Everything about the claim, and about the pictures of the page, that is a number."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from arra.experiments.digit_vectors import training
from arra.experiments.rings import Learning, RingLaw
from arra.samplers.speculative.drafts import Budget
from arra.samplers.speculative.paths import PathRule
from arra.samplers.speculative.vectors import PathConfig
from arra.settings import BatchConfig, LlamaSize, VectorOptions
from arra.training.config import TrainConfig

DIFFUSION, GAUSSIAN = "diffusion", "one Gaussian"
HEADS = (DIFFUSION, GAUSSIAN)
"""Laws of a token: steps with a learned variance, as the paper's; and a single step."""
ALIGNED, INDEPENDENT = "shared noise", "independent noise"
EXACT, RELEASED = "shared noise, S = 1", "inner temperature 42"
"""The paper's rule; the same with noise of their own for both models; the paper's without the ratio
of deviations, which is lossless; and with the released code's temperature."""


@dataclass(frozen=True)
class Size:
    """A transformer and, for diffusion, the head's network of three blocks."""

    width: int
    depth: int
    heads: int
    inner: int


@dataclass(frozen=True)
class Recipe:
    """Walks around a ring, learnt by a larger and a smaller model, and how they are drawn."""

    law: RingLaw = field(default_factory=lambda: RingLaw(length=8))
    target: Size = field(default_factory=lambda: Size(64, 2, 4, 64))
    draft: Size = field(default_factory=lambda: Size(16, 1, 2, 16))
    sampling: int = 20
    """Steps of a token."""
    repeats: int = 2
    """Times and noises of each token in a step of training."""
    learning: Learning = field(default_factory=lambda: Learning(steps=1000, batch=128))
    regression: Learning = field(default_factory=lambda: Learning(steps=300, batch=128))
    """Of heads of one Gaussian."""
    last: float = 0.05
    """Deviation of the noise of the last step."""
    ahead: int = 4
    """Tokens drafted for a pass."""
    prefill: float = 0.05
    drawn: int = 4000
    """Sequences of each way of drawing."""

    def samplers(self, head: str) -> dict[str, PathConfig]:
        """The ways of drawing that are compared for a head, by their names."""
        plain = PathConfig(Budget(self.ahead, self.ahead), self.prefill, self.last)
        if head == GAUSSIAN:
            return {ALIGNED: plain}
        return {
            ALIGNED: plain,
            INDEPENDENT: replace(plain, shared=False),
            EXACT: replace(plain, rule=PathRule(scaled=False)),
            RELEASED: replace(plain, rule=PathRule(temperature=42.0)),
        }


def tiny() -> Recipe:
    """To see that it runs; nobody should read its numbers."""
    few = Learning(steps=3, batch=8)
    return replace(
        Recipe(),
        target=Size(16, 1, 2, 8),
        draft=Size(8, 1, 1, 8),
        sampling=3,
        learning=few,
        regression=few,
        drawn=24,
    )


RECIPES = {"full": Recipe, "tiny": tiny}


@dataclass(frozen=True)
class DigitRecipe:
    """Handwritten digits as 4 x 4 squares of pixels, drawn in rounds by `masked-vectors`."""

    target: LlamaSize = field(
        default_factory=lambda: LlamaSize(width=96, depth=2, heads=4, feed_forward=256)
    )
    draft: LlamaSize = field(
        default_factory=lambda: LlamaSize(width=32, depth=1, heads=2, feed_forward=64)
    )
    inner: tuple[int, int] = (128, 32)
    """Widths of the heads' networks."""
    options: VectorOptions = field(
        default_factory=lambda: VectorOptions(
            objective="v", stochastic=True, steps=20, inner_depth=2, repeats=2, rounds=8
        )
    )
    batch: BatchConfig = field(
        default_factory=lambda: BatchConfig(size=64, drop_caption=0.1, multiple=1)
    )
    train: TrainConfig = field(default_factory=lambda: training(2000, 3e-3))
    lasts: tuple[float, ...] = (0.05, 0.2)
    """Deviations of the last step; greys lie between -1 and 1."""
    ahead: int = 4
    """Rounds drafted for a pass."""
    drawn: int = 500
    crop: int = 1
    """Pixels by which digits are moved."""


def tiny_digits() -> DigitRecipe:
    """To see that it runs."""
    small = LlamaSize(width=16, depth=1, heads=2, feed_forward=16)
    recipe = DigitRecipe()
    return replace(
        recipe,
        target=small,
        draft=small,
        inner=(8, 8),
        options=replace(recipe.options, steps=3, rounds=3),
        batch=replace(recipe.batch, size=8),
        train=training(2, 3e-3),
        lasts=(0.05, 0.2),
        ahead=1,
        drawn=40,
        crop=0,
    )
