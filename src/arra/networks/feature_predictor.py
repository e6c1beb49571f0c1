"""The network that drafts features (EAGLE, arXiv 2401.15077, section 3.1): at a code of a picture,
from the code and what the target's head read one code before, what the head will read here.

Positions are counted within the picture. Of the caption the network knows what features tell, and
it has no tables of its own: codes are embedded, and features turned into laws, by the target's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from arra.errors import InputError
from arra.networks.adaln import Memory
from arra.networks.grid_llama import Block
from arra.networks.part import Part
from arra.networks.rotary import axes_table
from arra.registry import Registry, drafters


@dataclass(frozen=True)
class FeaturePredictorConfig:
    """What the network is, and whose features it predicts."""

    width: int
    """D of the target's features, and of the blocks."""
    units: int
    """Codes of a picture at most."""
    heads: int = 4
    depth: int = 1
    """Decoder blocks."""
    feed_forward: int = 0
    """Inner width of the blocks' SwiGLU; 0: eight thirds of D, rounded up to a multiple of 16."""
    rope_theta: float = 10000.0
    """Base of the rotary positions."""
    target: str = ""
    """Fingerprint of the generator whose features these are."""

    def __post_init__(self) -> None:
        for name in ("width", "units", "heads", "depth"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"FeaturePredictorConfig.{name}: {value}, expected 1 or more")
        if self.width % (2 * self.heads):
            raise InputError(
                f"FeaturePredictorConfig.heads: {self.heads}, expected heads of an even number of "
                f"dimensions that share the width, {self.width}"
            )

    @property
    def hidden(self) -> int:
        """The inner width, chosen or not."""
        return self.feed_forward or -(-8 * self.width // 48) * 16


@drafters.register("features")
class FeaturePredictor(Part):
    """One linear map over code and feature, then Llama blocks that look back."""

    registry: ClassVar[Registry] = drafters
    Config = FeaturePredictorConfig
    config: FeaturePredictorConfig
    rotary: Tensor

    def __init__(self, config: FeaturePredictorConfig):
        super().__init__(config)
        width, heads = config.width, config.heads
        self.fuse = nn.Linear(2 * width, width)
        self.blocks = nn.ModuleList(Block(width, heads, config.hidden) for _ in range(config.depth))
        places = torch.arange(config.units)[:, None]
        table = axes_table(places, width // heads, config.rope_theta)
        self.register_buffer("rotary", table, persistent=False)

    @classmethod
    def tiny(cls) -> Self:
        return cls.seeded(FeaturePredictorConfig(16, 9, heads=2), 0)

    def forward(
        self,
        embedded: Tensor,
        features: Tensor,
        position: Tensor,
        mask: Tensor | None = None,
        past: Any = None,
    ) -> Tensor:
        """(R, T, D) the features at codes.

        `embedded` (R, T, D) are the codes as the target embeds them, `features` (R, T, D) what its
        head read before each, `position` (R, T) int64 their places in the picture. `mask` (R, 1, T,
        L + T) bool says what each sees of the L positions in `past` (a `transformers.DynamicCache`,
        which the new ones join) and of the new ones; None is causal.
        """
        x = self.fuse(torch.cat((embedded, features), dim=-1))
        rotary = self.rotary[position]
        for number, block in enumerate(self.blocks):
            memory = None if past is None else _BlockMemory(past=past, number=number)
            x = block(x, rotary, mask, memory)
        return x


@dataclass
class _BlockMemory(Memory):
    """One block's keys and values in a cache of all of them."""

    past: Any = None
    number: int = 0

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, these behind those from before."""
        return self.past.update(keys, values, self.number)
