"""A number with what makes it a measurement: its interval, its sample size, and who looked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its confidence interval."""

    value: float
    low: float
    high: float
    level: float = 0.95
    method: str = ""
    """How the bounds were found, for example "percentile bootstrap over prompts"."""

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Measured:
    """One result."""

    name: str
    """What was measured, for example "Fréchet distance"."""
    value: float
    n: int
    """How many pictures, prompts or pairs it rests on."""
    encoder: str
    """Which network looked at the pictures ("none" for measures on pixels)."""
    interval: Interval | None = None
    """Uncertainty, or None where it was not computed."""
    details: dict[str, float | int | str] = field(default_factory=dict)
    """Settings and side results without which the number cannot be compared."""

    def __str__(self) -> str:
        bounds = ""
        if self.interval is not None:
            bounds = f" [{self.interval.low:.4g}, {self.interval.high:.4g}]"
        more = "".join(f", {key}={value}" for key, value in self.details.items())
        shown = f"{self.value:.4g}" if math.isfinite(self.value) else str(self.value)
        return f"{self.name} {shown}{bounds} (n={self.n}, encoder={self.encoder}{more})"
