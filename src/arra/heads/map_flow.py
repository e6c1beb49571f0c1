"""The law of a whole map of vectors: a network that sees all of them leads from noise to the map
(FlowAR, arXiv 2412.15205, section 3.3).

B maps of n vectors of C numbers, given the network's states (B, n, D), one at every position.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from arra.heads.base import guided
from arra.heads.processes import TIMES, Process
from arra.networks.map_denoiser import MapDenoiser, Told


class MapHead(nn.Module):
    """Maps of any size, and ways to them that the caller names: scales share one network."""

    def __init__(
        self,
        width: int,
        channels: int,
        *,
        outputs: int = 1,
        inner: int = 256,
        depth: int = 3,
        told: Told = "spatial",
        guided_until: float = 1.0,
    ):
        """`width` D of the states, `channels` C, `outputs` of the process; `inner`, `depth` and
        `told` of the network; beyond the share `guided_until` of noise nothing is guided."""
        super().__init__()
        self.channels, self.guided_until = channels, guided_until
        self.network = MapDenoiser(channels, outputs * channels, width, inner, depth, told)

    def losses(
        self,
        process: Process,
        target: Tensor,
        noise: Tensor,
        states: Tensor,
        rotary: Tensor,
        random: torch.Generator | None = None,
    ) -> Tensor:
        """(B, n) the training loss of every vector of target (B, n, C), with noise of its shape and
        one time of `random` for each map."""
        rows, cells, _ = target.shape
        time = process.times(rows, random, target.device)

        def predict(x: Tensor, _: Tensor) -> Tensor:
            return self.network(x.view(target.shape), time, states, rotary).flatten(0, 1)

        told = time.repeat_interleave(cells)
        losses = process.losses(predict, target.flatten(0, 1), told, noise.flatten(0, 1))
        return losses.view(rows, cells)

    def sample(
        self,
        process: Process,
        noise: Tensor,
        states: Tensor,
        rotary: Tensor,
        scale: float = 1.0,
        temperature: float = 1.0,
    ) -> Tensor:
        """(B, n, C) maps drawn with noise (draws, B, n, C), given states (B, n, D) or those of
        pairs, (2 B, n, D), to be guided by `scale` (see `heads.base.Head.sample`)."""
        shape = noise.shape[1:]

        def network(x: Tensor, time: Tensor, states: Tensor) -> Tensor:
            return self.network(x, time, states, rotary)

        plain, moved = (
            guided(network, states, shape[0], strength, self.channels) for strength in (1.0, scale)
        )

        def predict(x: Tensor, time: Tensor) -> Tensor:
            each = time.view(shape[:2])[:, 0]
            free = scale == 1.0 or float(time[0]) > TIMES * self.guided_until
            return (plain if free else moved)(x.view(shape), each).flatten(0, 1)

        return process.sample(predict, noise.flatten(1, 2), temperature).view(shape)
