"""A transformer that is context encoder and denoiser at once (xAR, arXiv 2502.20388; ACDiT, arXiv
2412.07720): words, clean positions and noisy ones of a picture stand in one sequence.

R rows, P words, T positions of a picture, width D. A condition belongs to an entity; words, and
clean positions where nothing is said of them, are plain: their norms are not set and their gates
are 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arra.networks.adaln import Memory
from arra.networks.conditions import Captions
from arra.networks.dit import Block, Last, TimeEmbedding
from arra.networks.rotary import axes_table
from arra.settings import LlamaSize


@dataclass(frozen=True)
class Told:
    """Conditions, and which positions of a sequence they are for."""

    condition: Tensor
    """(R, E, D)."""
    owner: Tensor
    """(K,) int64 below E: the condition of each of the last K positions; those before are plain."""

    def set_by(self, layer: nn.Module, plain: Tensor, positions: int) -> Tensor:
        """(R, T, n) what a linear layer makes of the condition of each position; of plain ones
        `plain` (n,)."""
        found = layer(F.silu(self.condition))[:, self.owner]
        before = positions - len(self.owner)
        if not before:
            return found
        return torch.cat((plain.to(found).expand(len(found), before, -1), found), dim=1)

    @property
    def by_position(self) -> Tensor:
        """(R, K, D)."""
        return self.condition[:, self.owner]


class EntityTransformer(nn.Module):
    """Vectors of c numbers at some of L places, and words before them, to states and numbers."""

    rotary: Tensor
    plain: Tensor

    def __init__(
        self,
        size: LlamaSize,
        coordinates: Tensor,
        channels: int,
        *,
        text: int,
        longest: int,
    ):
        """`coordinates` (L, axes) of the places, `channels` c; `text` and `longest` of captions."""
        super().__init__()
        width, heads = size.width, size.heads
        self.captions = Captions(text, width, longest)
        self.times = TimeEmbedding(width)
        self.inputs = nn.Linear(channels, width)
        self.places = nn.Parameter(0.02 * torch.randn(len(coordinates), width))
        self.blocks = nn.ModuleList(
            Block(width, heads, size.feed_forward) for _ in range(size.depth)
        )
        self.last = Last(width, channels)
        # a word stands where nothing is turned
        where = torch.cat((torch.zeros_like(coordinates[:1]), coordinates))
        table = axes_table(where, width // heads, size.rope_theta)
        self.register_buffer("rotary", table, persistent=False)
        ones, zeros = torch.ones(2 * width), torch.zeros(4 * width)
        self.register_buffer("plain", torch.cat((ones, zeros)), persistent=False)

    def read(self, values: Tensor, place: Tensor) -> Tensor:
        """(R, T, D) of vectors (R, T, c) at places (T,)."""
        return self.inputs(values) + self.places[place]

    def forward(
        self,
        x: Tensor,
        place: Tensor,
        told: Told | None,
        mask: Tensor,
        memories: Sequence[Memory] | None = None,
        layers: Sequence[int] = (),
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """(R, T, D) states of what was read, and those of blocks `layers` (1 is the first).

        `place` (T,) -1 for a word; `told` None: all are plain; `mask` (R or 1, 1, T or 1, keys)
        bool.
        """
        rotary, found = self.rotary[None, place + 1], {}
        for number, block in enumerate(self.blocks, start=1):
            assert isinstance(block, Block)
            set_ = self.plain.to(x.dtype)
            if told is not None:
                set_ = told.set_by(block.set, self.plain, x.shape[1])
            memory = None if memories is None else memories[number - 1]
            x = block.moved(x, set_, rotary, mask, memory)
            if number in layers:
                found[number] = x
        return x, found
