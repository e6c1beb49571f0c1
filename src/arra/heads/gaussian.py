"""The plain head of a regression: a mean, and one width of the noise around it for all tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from arra.denoising import DenoisingPath
from arra.guidance import guide_pairs
from arra.heads.base import Head


class GaussianHead(Head):
    """N(W hidden + b, s^2 I), trained by the squared error; s is what the error comes to."""

    draws = 1
    variance: Tensor

    def __init__(self, width: int, channels: int, decay: float = 0.99):
        """`decay` of the running mean of the squared error."""
        super().__init__()
        self.channels, self.decay = channels, decay
        self.mean = nn.Linear(width, channels)
        self.register_buffer("variance", torch.ones(()))

    def losses(
        self, target: Tensor, hidden: Tensor, random: torch.Generator | None = None
    ) -> Tensor:
        """Mean squared error of a number."""
        squared = (self.mean(hidden).float() - target).square().mean(dim=1)
        if self.training and len(squared):
            with torch.no_grad():
                self.variance.lerp_(squared.detach().mean(), 1.0 - self.decay)
        return squared

    def sample(
        self, hidden: Tensor, noise: Tensor, scale: float = 1.0, temperature: float = 1.0
    ) -> Tensor:
        mean = self._mean(hidden, noise.shape[1], scale)
        return mean + temperature * self.variance.sqrt() * noise[0]

    @property
    def pathless(self) -> str:
        return ""

    def _path(
        self,
        hidden: Tensor,
        noise: Tensor,
        scale: float | Tensor,
        temperature: float,
        last: float | None,
    ) -> DenoisingPath:
        """One step, whose deviation is the head's own, whatever `last` says."""
        mean = self._mean(hidden, noise.shape[1], scale)
        deviation = (temperature * self.variance.sqrt()).expand_as(mean)
        none = torch.zeros(len(mean), dtype=torch.float64, device=mean.device)
        return DenoisingPath(mean + deviation * noise[0], mean, deviation, none)

    def _mean(self, hidden: Tensor, rows: int, scale: float | Tensor) -> Tensor:
        mean = self.mean(hidden).float()
        return guide_pairs(mean, scale) if len(mean) > rows else mean
