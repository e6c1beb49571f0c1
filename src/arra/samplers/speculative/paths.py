"""The rule of acceptance for continuous tokens that come with their denoising paths (Continuous
Speculative Decoding, arXiv 2411.11925).

A drafted token x stays with probability min(1, R), R = S p_1(x) / q_1(x): p_1 and q_1 are the
Gaussians of the last steps of target and draft, and S is the product of the deviations of all
other steps of the draft, over those of the target. That is the ratio of the densities of two paths
that end in x and share their noise, of which the exponentials cancel.

Given the noise that is shared, both tokens are Gaussian: without S the rule keeps the target's law
exactly (arXiv 2211.17192, for densities), whatever the steps. S is 1 where the deviations are those
of a schedule; with a learned variance it is not, and what is drawn is not the target's law.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from arra.denoising import DenoisingPath
from arra.errors import InputError

_TOGETHER = 32  # proposals that are judged at once


@dataclass(frozen=True)
class Residual:
    """What replaces a token that was rejected."""

    token: Tensor
    """(C,)."""
    tries: int
    """Proposals that were made."""
    found: bool
    """Whether one was accepted; otherwise the token is the last of them."""


@dataclass(frozen=True)
class PathRule:
    """When drafted tokens stay, and what is drawn where one does not."""

    temperature: float = 1.0
    """Divides the deviations in the exponents of p_1 and q_1 when a draft is judged. Only 1 keeps a
    law; the released code has 42, with which nearly everything stays."""
    scaled: bool = True
    """Whether S counts, as in the paper. Without it the rule is lossless."""
    tries: int = 1000
    """Proposals at most that a rejected token takes; then the last one stays, a draw of p_1."""

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < float("inf"):
            raise InputError(f"PathRule.temperature: {self.temperature}, expected more than 0")
        if self.tries < 1:
            raise InputError(f"PathRule.tries: {self.tries}, expected 1 or more")

    def log_scale(self, p: DenoisingPath, q: DenoisingPath) -> Tensor:
        """(M,) log S, whether or not it counts."""
        return (q.log_scale - p.log_scale).double()

    def log_ratio(
        self, p: DenoisingPath, q: DenoisingPath, x: Tensor, temperature: float = 1.0
    ) -> Tensor:
        """(..., M) log R of x (..., M, C), float64; with `temperature` as the test tempers it."""
        exponent = (q.mahalanobis(x) - p.mahalanobis(x)) / (2.0 * temperature**2)
        ratio = exponent + p.log_height - q.log_height
        return ratio + self.log_scale(p, q) if self.scaled else ratio

    def acceptance(self, p: DenoisingPath, q: DenoisingPath) -> Tensor:
        """(M,) probability that each of the drafted tokens `q.tokens` stays."""
        return self.log_ratio(p, q, q.tokens, self.temperature).clamp(max=0.0).exp()

    def residual(self, p: DenoisingPath, q: DenoisingPath, random: torch.Generator) -> Residual:
        """A draw of [S p_1 - q_1]_+ normalised, for one token (paths of one row): proposals x of
        p_1 are accepted with probability [1 - 1 / R(x)]_+, at temperature 1."""
        for start in range(0, self.tries, _TOGETHER):
            count = min(_TOGETHER, self.tries - start)
            normal = torch.randn(count, *p.mean.shape, generator=random)
            proposed = p.mean + p.deviation * normal
            uniform = torch.rand(count, generator=random, dtype=torch.float64)
            stays = uniform < -torch.expm1(-self.log_ratio(p, q, proposed)[:, 0])
            if bool(stays.any()):
                chosen = int(stays.to(torch.int8).argmax())
                return Residual(proposed[chosen, 0], start + chosen + 1, True)
        return Residual(proposed[-1, 0], self.tries, False)
