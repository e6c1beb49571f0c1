"""Everything about the claim that is a number, and its arms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from arra.experiments.digit_vectors import training
from arra.samplers.speculative.drafts import Budget
from arra.samplers.speculative.ngrams import NgramConfig
from arra.samplers.speculative.search import SearchConfig
from arra.settings import BatchConfig, LlamaSize
from arra.training.config import TrainConfig

PLAIN, CHAIN, SEARCH, ADAPTED = "plain", "chain", "search", "adapted"
"""No drafts; the likeliest successor time and again; a searched tree; and one that adapts."""
ADAPTED_CHAIN, RELEASED, RENORMALISED, KEPT = (
    "adapted chain",
    "released scores",
    "renormalised",
    "kept table",
)
"""Adaptation without search; and ADED with the released code's index, with rows that stay laws, and
with a table that is kept from document to document."""


@dataclass(frozen=True)
class Recipe:
    """Documents in one language, each with habits of its own."""

    codes: int = 24
    """Letters."""
    chances: tuple[float, ...] = (0.4, 0.3, 0.2, 0.1)
    """Of the successors that a pair of letters has in the language."""
    faithful: float = 0.95
    """How often a document does after a pair what it always does after it."""
    length: int = 160
    """Letters of a document."""
    given: int = 48
    """Of these given when one is completed."""
    documents: int = 6000
    """To train on, and to count tri-grams in."""
    completed: int = 32
    """Held-out documents that are completed."""
    size: LlamaSize = field(
        default_factory=lambda: LlamaSize(
            width=96, depth=3, heads=4, feed_forward=256, positions=192, rope_theta=1000.0
        )
    )
    batch: BatchConfig = field(
        default_factory=lambda: BatchConfig(size=16, drop_caption=0.0, multiple=1)
    )
    train: TrainConfig = field(default_factory=lambda: training(900, 3e-3))
    search: SearchConfig = field(default_factory=lambda: SearchConfig(iterations=50, kept=8))
    budget: Budget = field(default_factory=lambda: Budget(nodes=16, depth=16))

    def drafters(self) -> dict[str, NgramConfig]:
        """How each arm but the plain one drafts."""
        adapted = NgramConfig(search=self.search)
        fixed = replace(adapted, step=0.0)
        return {
            CHAIN: replace(fixed, method="chain"),
            SEARCH: fixed,
            ADAPTED: adapted,
            ADAPTED_CHAIN: replace(adapted, method="chain"),
            RELEASED: replace(adapted, search=replace(self.search, released_scores=True)),
            RENORMALISED: replace(adapted, renormalised=True),
            KEPT: replace(adapted, kept=True),
        }


def tiny() -> Recipe:
    """To see that it runs; nobody should read its numbers."""
    return replace(
        Recipe(),
        codes=8,
        length=24,
        given=8,
        documents=40,
        completed=3,
        size=LlamaSize(width=16, depth=1, heads=2, feed_forward=16, positions=48),
        batch=BatchConfig(size=8, drop_caption=0.0, multiple=1),
        train=training(4, 3e-3),
        search=SearchConfig(iterations=8, kept=4),
    )


RECIPES = {"full": Recipe, "tiny": tiny}
