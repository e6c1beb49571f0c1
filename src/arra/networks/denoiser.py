"""A small network that is told time and condition by its norms (DiT, arXiv 2212.09748; MAR)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WAVES = 256


class Denoiser(nn.Module):
    """M rows of C numbers to M rows of `outputs` numbers: the head network of MAR (2406.11838).

    Blocks x + g MLP((1 + s) norm(x) + b), where b, s and g are linear in SiLU(y) and y is the sum
    of what time and condition become. All of these maps and the last layer begin at zero: so does
    the output, and at the first step nothing but the last layer has a gradient.
    """

    def __init__(self, channels: int, outputs: int, condition: int, width: int, depth: int):
        """`condition` D, `width` of the rows inside, `depth` blocks."""
        super().__init__()
        self.time = nn.Sequential(nn.Linear(_WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(condition, width)
        self.inputs = nn.Linear(channels, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.outputs = nn.Linear(width, outputs)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            assert isinstance(block, _Block)
            nn.init.zeros_(block.modulation.weight)
        for layer in (self.time[0], self.time[2]):
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.outputs.weight)

    def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """(M, outputs) of (M, C), times (M,) between 0 and 1000, and conditions (M, D)."""
        y = F.silu(self.time(waves(time).to(condition.dtype)) + self.condition(condition))
        x = self.inputs(x)
        for block in self.blocks:
            x = block(x, y)
        shift, scale = self.modulation(y).chunk(2, dim=-1)
        return self.outputs(_norm(x) * (1 + scale) + shift)


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(y).chunk(3, dim=-1)
        inside = self.norm(x) * (1 + scale) + shift
        return x + gate * self.second(F.silu(self.first(inside)))


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def waves(time: Tensor, count: int = _WAVES, longest: float = 10000.0) -> Tensor:
    """(M, count) cosines and sines of times (M,), at frequencies from 1 down to 1 / `longest`."""
    half = count // 2
    speed = torch.exp(-math.log(longest) * torch.arange(half, device=time.device).float() / half)
    angle = time[:, None].float() * speed
    return torch.cat((angle.cos(), angle.sin()), dim=-1)
