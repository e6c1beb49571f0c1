"""How generators, or ways of drawing, are compared on digit scenes. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from arra.errors import InputError


@dataclass(frozen=True)
class ScenesConfig:
    """How much is trained and drawn."""

    steps: int | None = None
    """Training steps of each. Default: of heads those of an ablation, of decoding 800."""
    prompts: int = 256
    """Held-out combinations that each draws."""
    cells: Path | None = None
    """Where trained models are kept: the folder of `arra ablate vectors`, say, of as many steps."""

    def __post_init__(self) -> None:
        if self.prompts < 2:
            raise InputError(f"prompts: {self.prompts}, expected 2 or more")
