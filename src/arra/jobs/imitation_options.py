"""Options of `arra imitate` that need no torch: the divergence, mistakes, texts of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from arra.errors import InputError


@dataclass(frozen=True)
class ImitationOptions:
    """How sequences are matched. First by likelihood alone, then more and more by imitation."""

    divergence: Literal["chi2-mixture", "chi2", "kl", "js"] = "chi2-mixture"
    """Of data and model that is made small; the paper's best is that of data and mixture."""
    alpha: float = 0.02
    """Temperature of the divergence. Large ones take more back, and smooth the law."""
    gamma: float = 1.0
    """Discount of the value of the next state."""
    noise: float = 0.05
    """Probability of a mistake that is taken back, before each token of the data."""
    begin: int | None = None
    """Steps of likelihood alone, a multiple of `every`. Default: half of all steps."""
    rise: int = 100
    """Steps in which the share of imitation then rises."""
    share: float = 1.0
    """What it is at the end; 0 learns the data and its mistakes by likelihood alone."""
    every: int = 50
    """Steps after which the model writes again."""
    texts: int = 128
    """Texts, or pictures, that it then writes."""
    kept: int = 4
    """Of how many such times texts are learnt from."""
    own: int = 16
    """Of them in a batch, beside those of the data."""

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 1:
            raise InputError(f"noise: {self.noise}, expected 0 to 1")
        if self.begin is not None and (self.begin < 1 or self.begin % max(self.every, 1)):
            raise InputError(
                f"begin: {self.begin}, expected a multiple of --every ({self.every}), after which "
                "the model writes"
            )

    def start(self, steps: int) -> int:
        """After how many of `steps` imitation begins."""
        if self.begin is not None:
            return self.begin
        return max(1, steps // 2 // self.every) * self.every
