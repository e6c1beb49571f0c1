"""A token's law as a way from noise to the token (the diffusion loss of MAR, arXiv 2406.11838)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from arra.denoising import DenoisingPath
from arra.errors import InputError
from arra.heads.base import Head, guided, steered
from arra.heads.processes import Process, normal
from arra.networks.denoiser import Denoiser


class DiffusionHead(Head):
    """Every token has a small network that leads from noise to it, told by the state what it is.

    The loss flows into the state. It is that of `process`: diffusion or flow.
    """

    last_draws = 1

    def __init__(
        self,
        width: int,
        channels: int,
        process: Process,
        *,
        inner: int = 1024,
        depth: int = 3,
        repeats: int = 4,
    ):
        """`width` D of the states, `channels` C of a token, `inner` and `depth` of the network,
        `repeats` times and noises that each token is trained with at once: the states are the
        costly part."""
        super().__init__()
        if repeats < 1:
            raise InputError(f"DiffusionHead.repeats: {repeats}, expected 1 or more")
        self.channels, self.process, self.repeats = channels, process, repeats
        self.draws = process.draws
        self.network = Denoiser(channels, process.outputs * channels, width, inner, depth)

    def losses(
        self, target: Tensor, hidden: Tensor, random: torch.Generator | None = None
    ) -> Tensor:
        target, hidden = (x.repeat(self.repeats, 1) for x in (target.float(), hidden))
        time = self.process.times(len(target), random, target.device)
        noise = normal(target.shape, random, target.device)
        rows = self.process.losses(lambda x, t: self.network(x, t, hidden), target, time, noise)
        return rows.view(self.repeats, -1).mean(dim=0)

    def sample(
        self, hidden: Tensor, noise: Tensor, scale: float = 1.0, temperature: float = 1.0
    ) -> Tensor:
        """Guidance moves what the network says of the noise (or the velocity); a learned variance
        is the conditional one's."""
        predict = guided(self.network, hidden, noise.shape[1], scale, self.channels)
        return self.process.sample(predict, noise, temperature)

    @property
    def pathless(self) -> str:
        return self.process.pathless

    def _path(
        self,
        hidden: Tensor,
        noise: Tensor,
        scale: float | Tensor,
        temperature: float,
        last: float | None,
    ) -> DenoisingPath:
        predict = guided(self.network, hidden, noise.shape[1], scale, self.channels)
        return self.process.path(predict, noise, temperature, last)

    def steered_sample(
        self, hidden: Tensor, noise: Tensor, scales: Sequence[float], temperature: float = 1.0
    ) -> Tensor:
        """`sample` of states ((k + 1) M, D) with k scales, see `heads.base.steered`."""
        predict = steered(self.network, hidden, scales, self.channels)
        return self.process.sample(predict, noise, temperature)
