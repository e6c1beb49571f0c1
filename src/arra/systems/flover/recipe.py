"""Everything about the claim that is a number."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from arra.settings import LlamaSize

SEQUENTIAL, WINDOW = "sequential", "window"
COMPACTED, GAPS, SCATTERED = "compacted", "gaps", "scattered"
ARMS = (SEQUENTIAL, WINDOW, COMPACTED, GAPS, SCATTERED)
"""One request after the other; batches of what a window brought, drawn to the longest; fused with
gaps closed (Flover); fused with gaps computed; fused with rows computed wherever they lie."""


@dataclass(frozen=True)
class Recipe:
    """Synthetic requests to an untrained model."""

    size: LlamaSize = field(default_factory=lambda: LlamaSize(128, 4, 4, 352, positions=96))
    """Of the Llama."""
    codes: int = 256
    """Of its vocabulary of pictures."""
    requests: int = 64
    """That arrive."""
    prompt: int = 8
    """Tokens of a prompt."""
    lengths: tuple[int, int] = (8, 64)
    """Shortest and longest output, uniform."""
    rate: float = 0.5
    """Requests that arrive in the time of a pass with one row, on average (Poisson)."""
    slots: int = 16
    """Rows at once."""
    window: float = 8.0
    """Passes with one row that a batch waits for more, after its first request came."""
    passes: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Rows of the passes that are timed."""
    large: LlamaSize = field(default_factory=lambda: LlamaSize(512, 8, 8, 1408, positions=96))
    """A larger one, whose passes are timed too: weights that no cache holds."""
    repeats: int = 5
    """Times that arrivals are served; the middle one counts."""
    timed: int = 40
    """Passes of each kind that are timed."""


def tiny() -> Recipe:
    """To see that it runs; nobody should read its numbers."""
    small = LlamaSize(32, 2, 2, 48, positions=96)
    return replace(
        Recipe(),
        size=small,
        large=small,
        codes=16,
        requests=10,
        lengths=(3, 9),
        slots=4,
        passes=(1, 4),
        repeats=1,
        timed=2,
    )


RECIPES = {"full": Recipe, "tiny": tiny}
