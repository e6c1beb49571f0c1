"""Everything about the claim that is a number."""

from __future__ import annotations

from dataclasses import dataclass, replace

from arra.experiments.rings import Learning, RingLaw

REGRESSION, DIFFUSION = "regression", "diffusion"
CODES = "codes"


@dataclass(frozen=True)
class Arm:
    """One head on one kind of data."""

    head: str
    """"regression", "diffusion", or "codes" with a softmax over them."""
    rings: int
    """Rings in a token, two numbers each."""
    codes: int = 0
    """Of the k-means codebook."""

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """For tables and folders."""
        kind = f"{self.codes} codes" if self.head == CODES else self.head
        return f"{kind}, {2 * self.rings} numbers"


DECIDING = (
    Arm(DIFFUSION, 4),
    Arm(DIFFUSION, 1),
    Arm(CODES, 4, 512),
    Arm(REGRESSION, 1),
)
"""On which the verdict rests: trained with every seed."""
BESIDE = (Arm(CODES, 1, 64), Arm(CODES, 4, 64), Arm(CODES, 1, 8), Arm(REGRESSION, 4))
"""What is shown beside them: trained with the first seed."""
ARMS = (*DECIDING, *BESIDE)


@dataclass(frozen=True)
class Recipe(RingLaw):
    """Sequences of tokens whose true law is known, and a small causal transformer."""

    width: int = 64
    depth: int = 2
    heads: int = 4
    inner: int = 128
    """Width of the diffusion head's network, which has three blocks."""
    repeats: int = 2
    """Noises of each token in a step."""
    sampling: int = 50
    """Steps of DDIM."""
    steps: int = 1200
    batch: int = 256
    learning_rate: float = 2e-3
    fitted: int = 20_000
    """Tokens that k-means sees."""
    judged: int = 4000
    """Sequences that are drawn."""
    projections: int = 200
    """Of the sliced Wasserstein distance."""

    @property
    def learning(self) -> Learning:
        """How all arms are trained."""
        return Learning(self.steps, self.batch, self.learning_rate)


def tiny() -> Recipe:
    """To see that it runs; nobody should read its numbers."""
    return replace(
        Recipe(),
        width=16,
        heads=2,
        depth=1,
        inner=16,
        sampling=3,
        steps=4,
        batch=16,
        fitted=2000,
        judged=50,
        projections=5,
    )


RECIPES = {"full": Recipe, "tiny": tiny}
