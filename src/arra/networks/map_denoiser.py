"""A small transformer that moves a whole map of noisy vectors, told by a state at every position
(FlowAR, arXiv 2412.15205, section 3.3).

R maps of n vectors of C numbers, states of width D, m the width inside.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arra.errors import InputError
from arra.networks.dit import Block, Last, TimeEmbedding, modulated
from arra.networks.grid_llama import Attention, Norm, SwiGLU
from arra.networks.rotary import rotate

Told = Literal["spatial", "pooled", "crossed"]
_HEAD = 64  # width of an attention head


class MapDenoiser(nn.Module):
    """Maps (R, n, C) to (R, n, outputs): blocks with attention within the map, rotary positions and
    no others.

    `told`: "spatial": time and the position's own state set its norms and gates (FlowAR's
    Spatial-adaLN); "pooled": time and the mean of all states, alike at all positions; "crossed":
    time sets the attention, positions look at all states by cross-attention, and time and the own
    state set the feed-forward layer (the released larger models).
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        condition: int,
        width: int,
        depth: int,
        told: Told = "spatial",
    ):
        """`condition` D, `width` m of the vectors inside, `depth` blocks."""
        super().__init__()
        if told not in (known := ("spatial", "pooled", "crossed")):
            raise InputError(f"MapDenoiser.told: {told!r}, expected one of {', '.join(known)}")
        self.told, self.heads, hidden = told, max(1, width // _HEAD), int(8 * width / 3)
        self.condition, self.inputs = nn.Linear(condition, width), nn.Linear(channels, width)
        self.blocks = nn.ModuleList(
            CrossBlock(width, self.heads, hidden, condition)
            if told == "crossed"
            else Block(width, self.heads, hidden)
            for _ in range(depth)
        )
        for part in self.modules():
            if isinstance(part, nn.Linear) and bool(part.weight.any()):  # what is zero stays so
                nn.init.xavier_uniform_(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        self.time, self.last = TimeEmbedding(width), Last(width, outputs)

    def forward(self, x: Tensor, time: Tensor, states: Tensor, rotary: Tensor) -> Tensor:
        """(R, n, outputs) float32 of noisy maps (R, n, C), times (R,) between 0 and 1000, states
        (R, n, D) and a rotary table (n, m / heads / 2, 2)."""
        if self.told == "pooled":
            states = states.mean(dim=1, keepdim=True)
        time = self.time(time)[:, None]
        own = time + self.condition(states)
        x, table = self.inputs(x.to(own.dtype)), rotary[None]
        everything = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=x.device)
        for block in self.blocks:
            if self.told == "crossed":
                x = block(x, time, own, states, table, everything)
            else:
                x = block(x, own, table, everything)
        return self.last(x, own)


class CrossBlock(nn.Module):
    """x + gate Attention(norm x), set by time; x + CrossAttention(norm x, norm states); x + gate
    SwiGLU(norm x), set by time and the own state. What sets norms and gates begins at zero."""

    def __init__(self, width: int, heads: int, hidden: int, condition: int):
        super().__init__()
        self.set, self.set_feed = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)
        for layer in (self.set, self.set_feed):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.mixer, self.feed = Attention(width, heads), SwiGLU(width, hidden)
        self.norm, self.states_norm = Norm(width, 1e-6), Norm(condition, 1e-6)
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(condition, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, time: Tensor, own: Tensor, states: Tensor, rotary: Tensor, mask: Tensor
    ) -> Tensor:
        """(R, n, m) of states inside (R, n, m), times (R, 1, m), what sets each position (R, n, m),
        and the states of the big network (R, n, D)."""
        gate, scale, shift = self.set(F.silu(time)).chunk(3, dim=-1)
        x = x + gate * self.mixer(modulated(x, scale, shift), rotary, mask)
        x = x + self._cross(self.norm(x), self.states_norm(states), rotary)
        gate, scale, shift = self.set_feed(F.silu(own)).chunk(3, dim=-1)
        return x + gate * self.feed(modulated(x, scale, shift))

    def _cross(self, x: Tensor, states: Tensor, rotary: Tensor) -> Tensor:
        query = self.query(x).unflatten(-1, (self.heads, -1))
        key, value = self.key_value(states).unflatten(-1, (2, self.heads, -1)).unbind(2)
        query, key = rotate(query, rotary), rotate(key, rotary)
        query, key, value = (t.transpose(1, 2) for t in (query, key, value))
        seen = F.scaled_dot_product_attention(query, key, value)
        return self.out(seen.transpose(1, 2).flatten(2))
