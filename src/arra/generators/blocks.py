"""Blocks of a picture, or frames of a clip, each denoised by the whole network after a clean past
(ACDiT, arXiv 2412.07720).

In training a clean copy stands before the noisy one, and each noisy block sees clean blocks before
it and itself. Clean positions know neither time nor caption, so guidance's pairs remember the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from arra.generators.entities import SequenceOfEntities
from arra.generators.vectors import SOLVED, VectorConfig
from arra.orders.entities import Entities
from arra.registry import generators


@generators.register("blocks")
class BlockGenerator(SequenceOfEntities):
    """Square blocks in raster order, or frames where codes are those of clips."""

    reads = (*SOLVED, "side")

    plain_context = True

    @classmethod
    def entities_of(cls, config: VectorConfig) -> Entities:
        if config.frames > 1:
            return Entities.of_frames(config.grid, config.frames)
        return Entities.of("cell", config.grid, config.options.side)

    def context(
        self, target: Tensor, random: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None] | None:
        """None where there is one block: nobody would read the copy."""
        return (target, None) if self.units > 1 else None
