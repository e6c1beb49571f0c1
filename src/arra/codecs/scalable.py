"""Scalable vector quantisation (FlexVAR, arXiv 2502.20313, section 3.2), with its training.

A codec whose decoder draws a picture from its latents averaged to any size: a coarse scale is a
small picture, not a correction. One codebook of unit vectors (as in `codecs/vq`) serves all scales.
Training draws some resolutions a step and asks for a reconstruction at each.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from arra.codecs.autoencoder import AutoencoderConfig
from arra.codecs.base import CodecOutput
from arra.codecs.pyramids import DirectConfig, DirectPyramid, DirectStep
from arra.codecs.quantized import AutoencodedCodec
from arra.codecs.reviving import badly_served, evenly
from arra.errors import InputError
from arra.orders.pyramid import Pyramid
from arra.orders.schedules import Scales, every_scale
from arra.registry import codecs


@dataclass(frozen=True)
class ScalableConfig:
    """A codec whose codes show the picture at every size."""

    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """Encoder and decoder."""
    grid: tuple[int, int] = (6, 6)
    """Rows and columns of the largest scale of training; with `downsample` the size of pictures."""
    direct: DirectConfig = field(default_factory=DirectConfig)
    """The codebook."""
    resolutions: int = 5
    """How many scales a training step has, the whole one among them. 1 is a plain codec."""
    commitment: float = 0.25
    """Weight of the loss that draws latents to their codes."""
    usage_decay: float = 0.98
    """Decay of the running share of latents per code, per training step."""
    dead_below: float = 0.1
    """A code whose running share is below this many times 1 / vocabulary is moved onto a vector of
    the current batch; 0 turns that off, and with it the choice of the first codes from data."""
    seed: int = 0
    """Seed of the resolutions and of the choice of those vectors."""

    def __post_init__(self) -> None:
        checks = (
            ("grid", min(self.grid) >= 1, "at least 1 row and column"),
            ("resolutions", self.resolutions >= 1, "at least 1"),
            ("commitment", self.commitment >= 0, "0 or more"),
            ("usage_decay", 0 <= self.usage_decay < 1, "0 <= decay < 1"),
            ("dead_below", 0 <= self.dead_below < 1, "0 <= share < 1"),
        )
        for name, fine, expected in checks:
            if not fine:
                raise InputError(
                    f"ScalableConfig.{name}: {getattr(self, name)!r}, expected {expected}"
                )


@codecs.register("scalable")
class ScalableCodec(AutoencodedCodec):
    """Codes (B, L) of all scales up to the grid, 1 x 1 first; a picture is its last scale.

    `encode` gives every scale that a schedule may choose (`every_scale`), or those of a schedule;
    pictures of other sizes need one. `decode` takes the codes of any schedule.
    """

    Config = ScalableConfig
    config: ScalableConfig
    codes_axes = ("L",)
    usage: Tensor
    step: Tensor
    grid: tuple[int, int]

    def __init__(self, config: ScalableConfig):
        super().__init__(config, config.direct.vocabulary, config.direct.width)
        self.grid = config.grid
        self.pyramid = Pyramid(every_scale(config.grid))
        self.scales = DirectPyramid(config.direct)
        # none of the first codes was chosen by data: the first step moves them all
        self.register_buffer("usage", torch.zeros(self.vocabulary))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @classmethod
    def tiny(cls) -> Self:
        autoencoder = AutoencoderConfig(2, width=8, blocks=1, decoder_blocks=1, groups=2)
        return cls.seeded(ScalableConfig(autoencoder, (4, 4), DirectConfig(16, 4)), 0)

    # ---- pictures and codes --------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, pictures: Tensor, sizes: Scales | None = None) -> Tensor:
        """Codes (B, L) int64 of pictures (B, 3, H, W) in [-1, 1] at the scales of `sizes`.

        Without `sizes`: all scales that schedules choose from, for which pictures have the size
        that the codec is made for. With them, pictures may have any size that is a multiple of
        `downsample`; a scale larger than the picture's own grid is refused.
        """
        if sizes is None:
            self._check_pictures(pictures)
            return self.nearest(self.encoder(pictures))
        own = tuple(side // self.downsample for side in pictures.shape[-2:])
        if any(rows > own[0] or columns > own[1] for rows, columns in sizes):
            raise InputError(f"scales {sizes}: a picture of {own} codes has no larger ones")
        self.at((own[0], own[1]))._check_pictures(pictures)
        return self._codes(self.encoder(pictures), Pyramid(sizes))

    def at(self, grid: tuple[int, int]) -> Self:
        """This codec, with the same weights, for pictures of other rows and columns of codes."""
        other = copy.copy(self)
        other.grid, other.pyramid = grid, Pyramid(every_scale(grid))
        return other

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) of codes (B, L): of the last scale, whatever stands before it.

        That scale is the codec's own grid; `at` gives the codec of another.
        """
        self._check_codes(codes)
        grid = self.grid
        if codes.shape[1] < grid[0] * grid[1]:
            raise InputError(f"codes: {codes.shape[1]} a picture, too few for a grid of {grid}")
        return self.decoder(self.lookup(codes)).clamp(-1.0, 1.0).contiguous()

    def nearest(self, latents: Tensor) -> Tensor:
        return self._codes(latents, self.pyramid)

    def lookup(self, codes: Tensor) -> Tensor:
        rows, columns = self.grid
        return self.scales.grid(codes[:, -rows * columns :], self.grid)

    def _codes(self, latents: Tensor, pyramid: Pyramid) -> Tensor:
        steps = self.scales.quantize(latents.float(), pyramid)
        return torch.cat([step.codes for step in steps], dim=1)

    # ---- training ------------------------------------------------------------------------------

    def quantize(self, latents: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The whole scale alone, with the codes of all."""
        (step,) = self.scales.quantize(latents, Pyramid((self.grid,)))
        return _through(step), self.nearest(latents.detach()), self._losses([step])

    def forward(self, pictures: Tensor) -> CodecOutput:
        """In training with reconstructions at some smaller resolutions, which the step chooses."""
        self._check_pictures(pictures)
        latents = self.encoder(pictures)
        sizes = self.resolutions(int(self.step)) if self.training else (self.grid,)
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.float()
            if self.training:
                self._revive(latents.detach(), Pyramid(sizes))
            steps = list(self.scales.quantize(latents, Pyramid(sizes)))
            if self.training:
                self._count(steps)
            losses, codes = self._losses(steps), self.nearest(latents.detach())
        smaller = []
        for step, size in zip(steps[:-1], sizes, strict=False):
            pixels = tuple(self.downsample * cells for cells in size)
            target = F.interpolate(pictures, size=pixels, mode="area")
            smaller.append((self.decoder(_through(step)), target))
        whole = self.decoder(_through(steps[-1]))
        return CodecOutput(whole, codes, losses, latents, tuple(smaller))

    def resolutions(self, step: int) -> Scales:
        """The scales of a training step, the whole one last: a function of seed and step."""
        every = self.pyramid.sizes
        rng = np.random.default_rng([self.config.seed, 5, step])
        count = min(self.config.resolutions, len(every)) - 1
        chosen = sorted(rng.choice(len(every) - 1, size=count, replace=False).tolist())
        return (*(every[i] for i in chosen), every[-1])

    def _losses(self, steps: list[DirectStep]) -> dict[str, Tensor]:
        """Summed over scales, as reconstructions are."""
        codebook = [F.mse_loss(step.state, step.vectors.detach()) for step in steps]
        commitment = [F.mse_loss(step.vectors, step.state.detach()) for step in steps]
        return {
            "codebook": torch.stack(codebook).sum(),
            "commitment": self.config.commitment * torch.stack(commitment).sum(),
        }

    @torch.no_grad()
    def _count(self, steps: list[DirectStep]) -> None:
        """Every scale has an equal say in which codes count as used, however few cells it has."""
        shares = [
            torch.bincount(step.codes.flatten(), minlength=self.vocabulary) / step.codes.numel()
            for step in steps
        ]
        self.usage.lerp_(torch.stack(shares).mean(dim=0), 1.0 - self.config.usage_decay)
        self.step += 1

    @torch.no_grad()
    def _revive(self, latents: Tensor, pyramid: Pyramid) -> None:
        """Move codes that are hardly used onto what is badly served, of each scale as much.

        The draw depends only on `config.seed` and the step count, which is saved, so resumed
        training revives the same codes.
        """
        dead = (self.usage < self.config.dead_below / self.vocabulary).nonzero().flatten()
        if len(dead) == 0:
            return
        vectors, distances = [], []
        for step in self.scales.quantize(latents, pyramid):
            vectors.append(step.vectors.flatten(2).transpose(1, 2).flatten(0, 1))
            distances.append((step.vectors - step.state).square().sum(dim=1).flatten())
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + int(self.step))
        moved = badly_served(torch.cat(vectors), evenly(distances), len(dead), generator)
        dead = dead[: len(moved)]
        if self.config.direct.normalised:
            moved = F.normalize(moved, dim=1)
        self.scales.codebook[dead] = moved.to(self.scales.codebook.dtype)
        self.usage[dead] = 1.0 / self.vocabulary


def _through(step: DirectStep) -> Tensor:
    """(B, D, h, w) the codes' vectors, with the gradient of what was quantised."""
    return step.vectors + (step.state - step.vectors).detach()
