"""Guided pairs whose rows stand at units of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from arra.guidance import guide
from arra.samplers.logits import SamplingConfig


class UnitGuidance:
    """Combines logits with and without caption, each with the scale of its unit."""

    def __init__(self, config: SamplingConfig, units: int):
        self.guided = config.guided
        scales = [config.scale(min(unit, units - 1), units) for unit in range(units + 1)]
        self._scales = torch.tensor(scales)

    def __call__(self, logits: Tensor, unit: Tensor) -> Tensor:
        """(B, ..., V) of pairs (2 B, ..., V), those without caption behind; `unit` (B, ...) int64
        on the CPU. Logits (B, ..., V) that are not guided stay as they are."""
        if not self.guided:
            return logits
        scale = self._scales[unit.clamp(max=len(self._scales) - 1)][..., None].to(logits.device)
        conditional, unconditional = logits.float().chunk(2)
        return torch.where(scale == 1.0, conditional, guide(conditional, unconditional, scale))
