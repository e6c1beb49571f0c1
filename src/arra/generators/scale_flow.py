"""Next-scale generation of vectors (FlowAR, arXiv 2412.15205): every scale is the picture averaged
to its size, drawn as a whole from noise of its own, after all coarser ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from arra.generators.map_vectors import MapVectorGenerator, Way
from arra.generators.vectors import MAP_HEAD, SOLVED, process_of
from arra.heads.processes import Process, normal
from arra.orders.pyramid import halved_sizes
from arra.orders.schedules import Scales, fitted
from arra.registry import generators


@generators.register("scale-flow")
class ScaleFlowGenerator(MapVectorGenerator):
    """The mean loss over all positions is FlowAR's, a sum of the scales' means by their share of
    the last one's cells, but for the factor n / L of a training rate."""

    enlarge = "bicubic"
    reads = (*SOLVED, *MAP_HEAD, "scales")

    def _sizes(self) -> Scales:
        scales = self.config.options.scales
        return fitted(scales, self.config.grid) if scales else halved_sizes(self.config.grid)

    def _processes(self) -> Sequence[Process]:
        return [process_of(self.config.options)] * len(self._sizes())

    def ways(self, latents: Tensor, random: torch.Generator | None) -> list[Way]:
        maps = self.scales.averaged(latents, self.pyramid)
        noise = normal(maps.shape, random, maps.device)
        pairs = zip(*(self.pyramid.split(x) for x in (noise, maps)), strict=True)
        return [Way(start, end, end) for start, end in pairs]
