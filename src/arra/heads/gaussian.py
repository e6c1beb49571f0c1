"""The plain head of a regression: a mean, and one width of the noise around it for all tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
        mean = self.mean(hidden).float()
        if len(mean) > noise.shape[1]:
            mean = guide_pairs(mean, scale)
        return mean + temperature * self.variance.sqrt() * noise[0]
