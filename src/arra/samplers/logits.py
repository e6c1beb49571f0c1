"""From logits to the law that is drawn from: guidance, temperature, top-k, top-p."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from arra.errors import InputError


@dataclass(frozen=True)
class SamplingConfig:
    """How pictures are drawn."""

    guidance: float = 2.0
    """Scale s of classifier-free guidance, u + s (c - u); 1 is none, and costs half."""
    guidance_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Constant, or growing from 1 at the first unit to `guidance` at the last."""
    guidance_from: float = 0.0
    """Share of the picture at which guidance begins."""
    guidance_until: float = 1.0
    """Share of the picture at which guidance ends; outside of the interval the scale is 1."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely unit."""
    top_k: int = 0
    """Keep the k most likely units; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of units with at least this probability."""

    def __post_init__(self) -> None:
        checks = (
            ("guidance", self.guidance, 0.0 <= self.guidance < 1e4, "0 or more"),
            ("guidance_from", self.guidance_from, 0.0 <= self.guidance_from <= 1.0, "0 to 1"),
            ("guidance_until", self.guidance_until, 0.0 <= self.guidance_until <= 1.0, "0 to 1"),
            ("temperature", self.temperature, 0.0 <= self.temperature < 1e4, "0 or more"),
            ("top_k", self.top_k, self.top_k >= 0, "0 (off) or more"),
            ("top_p", self.top_p, 0.0 < self.top_p <= 1.0, "above 0, at most 1"),
        )
        for name, value, fine, expected in checks:
            if not fine:  # NaN fails every comparison, and so lands here
                raise InputError(f"SamplingConfig.{name}: {value}, expected {expected}")

    @property
    def guided(self) -> bool:
        """Whether any unit needs the unconditional branch."""
        return self.guidance != 1.0 and self.guidance_from < self.guidance_until

    def scale(self, unit: int, units: int) -> float:
        """Guidance scale for unit `unit` of `units`."""
        share = unit / max(units - 1, 1)
        if not self.guidance_from <= share <= self.guidance_until:
            return 1.0
        ramp = {
            "constant": 1.0,
            "linear": share,
            "cosine": (1.0 - float(torch.cos(torch.tensor(share * torch.pi)))) / 2.0,
        }[self.guidance_schedule]
        return 1.0 + (self.guidance - 1.0) * ramp


def guide(conditional: Tensor, unconditional: Tensor, scale: float | Tensor) -> Tensor:
    """u + s (c - u) (LlamaGen, section 3.3)."""
    return unconditional + scale * (conditional - unconditional)


def top_k_filter(logits: Tensor, k: int) -> Tensor:
    """(B, V) logits with all but the k largest of each row at minus infinity; 0 changes nothing."""
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    least = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, float("-inf"))


def top_p_filter(logits: Tensor, p: float) -> Tensor:
    """(B, V) logits restricted to the smallest set of probability at least p; 1 changes nothing.

    The most likely unit always stays.
    """
    if p >= 1.0:
        return logits
    ordered, index = logits.sort(dim=-1, descending=True)
    probability = ordered.softmax(dim=-1)
    before = probability.cumsum(dim=-1) - probability
    return logits.masked_fill((before >= p).scatter(-1, index, before >= p), float("-inf"))


def law(logits: Tensor, config: SamplingConfig) -> Tensor:
    """(B, V) probabilities after temperature, top-k and top-p, in float32."""
    logits = logits.float()
    if config.temperature == 0.0:
        return torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
    logits = top_p_filter(top_k_filter(logits / config.temperature, config.top_k), config.top_p)
    return logits.softmax(dim=-1)
