"""A picture in stages of growing resolution, each a part of the way from noise to data (E-CAR,
arXiv 2412.14170): early steps, which settle little, are cheap.

A stage ends with a picture that still has noise. Enlarged, with noise added that makes it white
again, it is where the next stage begins. The transformer reads it with noise of its own upon it
(`blur`): whoever reads it as it is knows the mean of every block at the start, so that a
deterministic way has nothing from which these means could vary (see docs/e-car.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from arra.errors import InputError
from arra.generators.map_vectors import MapVectorGenerator, Way
from arra.generators.vectors import MAP_HEAD, PROCESS
from arra.heads.processes import Process, Segment, normal
from arra.heads.stages import Stage, coarser, jump, repeated, stages
from arra.orders.pyramid import halved_sizes
from arra.orders.schedules import Scales
from arra.randomness import Noise
from arra.registry import generators


@generators.register("pyramid-flow")
class PyramidFlowGenerator(MapVectorGenerator):
    """`VectorOptions.steps` are those of one stage."""

    enlarge = "nearest"
    reads = (*PROCESS, *MAP_HEAD, "stages", "blur")

    def _sizes(self) -> Scales:
        return halved_sizes(self.config.grid, self.config.options.stages)

    def _processes(self) -> Sequence[Process]:
        options = self.config.options
        if options.objective != "flow" or options.stochastic or options.logit:
            raise InputError(
                f"VectorOptions: objective {options.objective}, stochastic {options.stochastic}, "
                f"logit {options.logit}; expected a flow without either, of which stages are parts"
            )
        return [Segment(*stage.clock, steps=options.steps) for stage in self.stages]

    @property
    def stages(self) -> list[Stage]:
        """One for each scale."""
        return stages(len(self._sizes()))

    def ways(self, latents: Tensor, random: torch.Generator | None) -> list[Way]:
        maps = self._grids(self.scales.averaged(latents, self.pyramid))
        noise = [normal(maps[-1].shape, random, latents.device)]
        for _ in maps[1:]:
            noise.insert(0, coarser(noise[0]))
        blur = self.config.options.blur
        found, before = [], torch.zeros_like(maps[0])
        for stage, white, here in zip(self.stages, noise, maps, strict=True):
            start = stage.start * white + (1.0 - stage.start) * before
            end = stage.end * white + (1.0 - stage.end) * here
            read = end + blur * normal(end.shape, random, end.device) if blur else end
            found.append(Way(*(x.flatten(2).transpose(1, 2) for x in (start, end, read))))
            before = repeated(here) if here is not maps[-1] else here
        return found

    def _grids(self, maps: Tensor) -> list[Tensor]:
        """(B, C, h, w) of every scale, of (B, L, C)."""
        return [
            part.transpose(1, 2).unflatten(2, size)
            for part, size in zip(self.pyramid.split(maps), self.pyramid.sizes, strict=True)
        ]

    def _start(
        self, level: int, before: Tensor | None, noise: Tensor, temperature: float
    ) -> tuple[Tensor, float]:
        if before is None:
            return noise, temperature
        white = temperature * noise[0].transpose(1, 2).unflatten(2, self.pyramid.sizes[level])
        start = jump(before, white, self.stages[level])
        return start.flatten(2).transpose(1, 2)[None], 1.0

    def _reading(self, end: Tensor, noise: Noise) -> Tensor:
        if not (blur := self.config.options.blur):
            return end
        fresh = noise(*end.shape[1:]).to(end.device)
        return end + blur * fresh
