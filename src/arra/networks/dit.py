"""Blocks whose norms and gates are set by a condition, with rotary positions and SwiGLU (DiT, arXiv
2212.09748, as FlowAR, xAR and ACDiT have it).

R rows of T positions, width D. A condition belongs to whole rows (R, D) or to positions (R, T, D).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arra.networks.adaln import spread
from arra.networks.denoiser import waves
from arra.networks.grid_llama import Attention, SwiGLU


class TimeEmbedding(nn.Module):
    """Times between 0 and 1000 as vectors: waves through Linear-SiLU-Linear."""

    def __init__(self, width: int):
        super().__init__()
        self.inside, self.outside = nn.Linear(256, width), nn.Linear(width, width)
        for layer in (self.inside, self.outside):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, time: Tensor) -> Tensor:
        """(..., D) of times (...)."""
        told = waves(time.flatten()).to(self.inside.weight.dtype)
        return self.outside(F.silu(self.inside(told))).view(*time.shape, -1)


class Block(nn.Module):
    """x + gate Mix(norm x), then x + gate SwiGLU(norm x); the condition sets gates and norms.

    What sets them begins at zero, so that a block begins as the identity. `mixer` is called as
    mixer(x, *how); the usual one is attention with how = (rotary table, mask, memory).
    """

    def __init__(self, width: int, heads: int, hidden: int, mixer: nn.Module | None = None):
        super().__init__()
        self.set = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.set.weight)
        nn.init.zeros_(self.set.bias)
        self.mixer = mixer or Attention(width, heads)
        self.feed = SwiGLU(width, hidden)

    def forward(self, x: Tensor, condition: Tensor, *how: Any) -> Tensor:
        """(R, T, D) of states (R, T, D)."""
        return self.moved(x, spread(self.set(F.silu(condition)), x), *how)

    def moved(self, x: Tensor, set_: Tensor, *how: Any) -> Tensor:
        """The same of what the condition sets, (R, T, 6 D): two gates, two scales, two shifts."""
        gate, other, scale, scale2, shift, shift2 = set_.chunk(6, dim=-1)
        x = x + gate * self.mixer(modulated(x, scale, shift), *how)
        return x + other * self.feed(modulated(x, scale2, shift2))


class Last(nn.Module):
    """The numbers that a network gives: a norm that the condition sets, and a linear map that
    begins at zero."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.set, self.out = nn.Linear(width, 2 * width), nn.Linear(width, outputs)
        for layer in (self.set, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(R, T, outputs) float32 of states (R, T, D)."""
        with torch.autocast(x.device.type, enabled=False):
            scale, shift = spread(self.set(F.silu(condition.float())), x).chunk(2, dim=-1)
            return self.out(modulated(x.float(), scale, shift))


def modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x / root mean square of x, times 1 + scale, plus shift."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-6) * (1.0 + scale) + shift
