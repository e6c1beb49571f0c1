"""From logits to the law that is drawn from: guidance, temperature, top-k, top-p."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from arra.settings import SamplingConfig


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


def untempered(config: SamplingConfig) -> SamplingConfig:
    """The same at temperature 1, unfiltered: of temperature 0 the law before the arg-max."""
    return replace(config, temperature=1.0, top_k=0, top_p=1.0)
