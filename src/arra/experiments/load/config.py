"""How a server is loaded. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from arra.errors import InputError
from arra.settings import LlamaName, SamplingConfig

SETTINGS = (
    SamplingConfig(2.0),
    SamplingConfig(3.0),
    SamplingConfig(2.0, temperature=0.8),
    SamplingConfig(2.0, top_k=100),
    SamplingConfig(1.5, top_p=0.9),
    SamplingConfig(4.0, "linear"),
)
"""All guided, so that every picture has two rows."""


@dataclass(frozen=True)
class LoadConfig:
    """How a server is loaded."""

    checkpoint: Path | None = None
    """What draws: a run folder, its model/, or an exported checkpoint. Without one: a model with
    random weights."""
    size: Literal["demo", "26M"] | LlamaName = "demo"
    """How large that is: as the demo's, which the processor's caches hold; eight blocks of width
    512; or a size of LlamaGen. The larger it is, the more of a pass is reading its weights."""
    minutes: float | None = None
    """How long the load lasts, in all ways together. Default: 10, or 0.1 with --budget tiny."""
    clients: int = 64
    """Who asks. At random times, each in a Poisson process of its own."""
    slots: int = 64
    """Rows of the running batch, and of a static one; a guided picture has two."""
    window: float = 0.005
    """Seconds that the first picture of a static batch waits for others."""
    bound: float = 3.0
    """The 95th percentile of the latency that is allowed, in latencies of a lone picture."""
    settings: int = 1
    """Different settings (guidance, temperature, top-k) among the clients."""
    pool: int = 256
    """Different pictures that are asked for; each is drawn alone first, to compare with."""
    http: bool = False
    """Then load `arra serve` over HTTP, too, with clients that vanish and slow readers beside it,
    and tell it to stop in the middle."""
    seed: int = 0
    """Of the arrivals."""

    def __post_init__(self) -> None:
        checks = (
            ("minutes", self.minutes is None or 0.0 < self.minutes < 1e6, "more than 0"),
            ("clients", self.clients >= 1, "1 or more"),
            ("slots", self.slots >= 2, "2 or more"),
            ("window", 0.0 <= self.window < 1e3, "0 or more"),
            ("bound", 1.0 < self.bound < 1e6, "more than 1"),
            ("settings", 1 <= self.settings <= len(SETTINGS), f"1 to {len(SETTINGS)}"),
            ("pool", self.pool >= 2, "2 or more"),
        )
        for name, fine, expected in checks:
            if not fine:  # NaN fails every comparison, and so lands here
                raise InputError(f"{name}: {getattr(self, name)}, expected {expected}")
