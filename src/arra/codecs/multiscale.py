"""Multi-scale residual vector quantisation (VAR, arXiv 2404.02905, section 3.2), with its training.

One codebook serves all scales. A coarse scale gives few of a batch's vectors (one of 85 in a
pyramid of 1, 2, 4 and 8), so that plain statistics of use would see its codes as dead and leave it
with a single one. Here every scale has an equal say: in which codes count as used, and in where
unused ones are moved.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from arra.codecs.autoencoder import AutoencoderConfig
from arra.codecs.pyramids import ResidualConfig, ResidualPyramid, ResidualStep
from arra.codecs.quantized import AutoencodedCodec
from arra.codecs.reviving import badly_served, evenly
from arra.errors import InputError
from arra.orders.pyramid import Pyramid
from arra.registry import codecs


@dataclass(frozen=True)
class MultiScaleConfig:
    """A codec whose codes are a pyramid of scales."""

    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """Encoder and decoder."""
    sizes: tuple[tuple[int, int], ...] = ((1, 1), (2, 2), (3, 3), (4, 4), (6, 6))
    """Rows and columns of each scale, coarse to fine; the last is the grid of latents, and so says
    how large a picture is."""
    residual: ResidualConfig = field(default_factory=ResidualConfig)
    """Codebook and smoothing."""
    commitment: float = 0.25
    """Weight (beta) of the loss that draws latents to the sum of their codes."""
    usage_decay: float = 0.98
    """Decay of the running share of vectors per code, per training step."""
    dead_below: float = 0.1
    """A code whose running share is below this many times 1 / vocabulary is moved onto a vector of
    the current batch; 0 turns that off, and with it the choice of the first codes from data."""
    seed: int = 0
    """Seed of the choice of those vectors."""

    def __post_init__(self) -> None:
        Pyramid(self.sizes)
        if self.commitment < 0:
            raise InputError(f"MultiScaleConfig.commitment: {self.commitment}, expected 0 or more")
        if not 0 <= self.usage_decay < 1:
            raise InputError(
                f"MultiScaleConfig.usage_decay: {self.usage_decay}, expected 0 <= decay < 1"
            )
        if not 0 <= self.dead_below < 1:
            raise InputError(
                f"MultiScaleConfig.dead_below: {self.dead_below}, expected 0 <= share < 1"
            )


@codecs.register("multiscale")
class MultiScaleCodec(AutoencodedCodec):
    """Codes (B, L) of all scales, coarse to fine; their sum on the last grid is decoded."""

    Config = MultiScaleConfig
    config: MultiScaleConfig
    codes_axes = ("L",)
    usage: Tensor
    step: Tensor

    def __init__(self, config: MultiScaleConfig):
        super().__init__(config, config.residual.vocabulary, config.residual.width)
        self.pyramid = Pyramid(config.sizes)
        self.grid = self.pyramid.grid
        self.scales = ResidualPyramid(config.residual)
        # none of the first codes was chosen by data: the first step moves them all
        self.register_buffer("usage", torch.zeros(self.vocabulary))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @classmethod
    def tiny(cls) -> Self:
        autoencoder = AutoencoderConfig(2, width=8, blocks=1, decoder_blocks=1, groups=2)
        sizes = ((1, 1), (2, 2), (2, 3), (4, 4))
        return cls.seeded(MultiScaleConfig(autoencoder, sizes, ResidualConfig(16, 4, phi=2)), 0)

    def nearest(self, latents: Tensor) -> Tensor:
        steps = self.scales.quantize(latents.float(), self.pyramid)
        return torch.cat([step.codes for step in steps], dim=1)

    def lookup(self, codes: Tensor) -> Tensor:
        return self.scales.last(codes, self.pyramid)

    def code_vectors(self) -> Tensor:
        return self.scales.codebook.detach().float().clone()

    def quantize(self, latents: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The losses compare the latents with the sum after every scale, not scale by scale."""
        if self.training:
            self._revive(latents.detach())
        steps = list(self.scales.quantize(latents, self.pyramid))
        if self.training:
            self._count(steps)
        fixed = latents.detach()
        sums = [step.state for step in steps]
        codebook = torch.stack([F.mse_loss(state, fixed) for state in sums]).mean()
        commitment = torch.stack([F.mse_loss(latents, state.detach()) for state in sums]).mean()
        losses = {"codebook": codebook, "commitment": self.config.commitment * commitment}
        codes = torch.cat([step.codes for step in steps], dim=1)
        return latents + (sums[-1] - latents).detach(), codes, losses

    @torch.no_grad()
    def _count(self, steps: list[ResidualStep]) -> None:
        shares = [
            torch.bincount(step.codes.flatten(), minlength=self.vocabulary) / step.codes.numel()
            for step in steps
        ]
        self.usage.lerp_(torch.stack(shares).mean(dim=0), 1.0 - self.config.usage_decay)
        self.step += 1

    @torch.no_grad()
    def _revive(self, latents: Tensor) -> None:
        """Move codes that are hardly used onto what is badly served, of each scale as much.

        The draw depends only on `config.seed` and the step count, which is saved, so resumed
        training revives the same codes.
        """
        dead = (self.usage < self.config.dead_below / self.vocabulary).nonzero().flatten()
        if len(dead) == 0:
            return
        vectors, distances = [], []
        for step in self.scales.quantize(latents, self.pyramid):
            far = step.vectors - F.embedding(step.codes, self.scales.codebook)
            distances.append(far.square().sum(dim=-1).flatten())
            vectors.append(step.vectors.flatten(0, 1))
        candidates = torch.cat(vectors)
        spread = candidates.std().clamp_min(1e-6)
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + int(self.step))
        moved = badly_served(candidates / spread, evenly(distances), len(dead), generator)
        dead = dead[: len(moved)]
        self.scales.codebook[dead] = moved * spread
        self.usage[dead] = 1.0 / self.vocabulary


def usage_by_scale(codes: Tensor, pyramid: Pyramid, vocabulary: int) -> list[float]:
    """exp of the entropy of each scale's codes (N, L): how many equally frequent ones there are.

    1 at a scale says that it tells nothing.
    """
    found = []
    for here in pyramid.split(codes):
        share = torch.bincount(here.flatten(), minlength=vocabulary).double() / here.numel()
        found.append(float(torch.special.entr(share).sum().exp()))
    return found
