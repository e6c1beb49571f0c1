"""Vector quantisation with a normalised, low-dimensional codebook (Sun et al. 2024, section 3.1).

Latents and codebook are scaled to unit length before they are compared, so the nearest code by
distance is the one of largest cosine and the length of a latent carries nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arra.codecs.autoencoder import AutoencoderConfig
from arra.codecs.quantized import QuantizedCodec, entropy, in_raster_order, most_similar
from arra.codecs.reviving import badly_served
from arra.errors import InputError
from arra.registry import codecs


@dataclass(frozen=True)
class VQConfig:
    """A vector-quantising codec."""

    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """Encoder and decoder."""
    vocabulary: int = 1024
    """Number of codes."""
    width: int = 8
    """Dimensions of a code. Few: usage of the codebook falls as they grow."""
    commitment: float = 0.25
    """Weight of the loss that draws latents to their code."""
    entropy: float = 0.0
    """Weight of (per-sample entropy - entropy of the batch) of the soft assignment."""
    temperature: float = 0.01
    """Temperature of that soft assignment, in units of squared distance."""
    usage_decay: float = 0.98
    """Decay of the running share of latents per code, per training step."""
    dead_below: float = 0.1
    """A code whose running share is below this many times 1 / vocabulary is moved onto a latent of
    the current batch; 0 turns that off."""
    seed: int = 0
    """Seed of the choice of those latents."""

    def __post_init__(self) -> None:
        if self.vocabulary < 2:
            raise InputError(f"VQConfig.vocabulary: {self.vocabulary}, expected at least 2")
        if self.width < 2:
            raise InputError(f"VQConfig.width: {self.width}, expected at least 2 (unit vectors)")
        if not 0 <= self.usage_decay < 1:
            raise InputError(f"VQConfig.usage_decay: {self.usage_decay}, expected 0 <= decay < 1")
        if not 0 <= self.dead_below < 1:
            raise InputError(f"VQConfig.dead_below: {self.dead_below}, expected 0 <= share < 1")
        if self.temperature <= 0:
            raise InputError(f"VQConfig.temperature: {self.temperature}, expected more than 0")


@codecs.register("vq")
class VQCodec(QuantizedCodec):
    """Codes are rows of a learned codebook; the gradient passes straight through to the latent."""

    Config = VQConfig
    config: VQConfig
    usage: Tensor
    step: Tensor

    def __init__(self, config: VQConfig):
        super().__init__(config, config.vocabulary, config.width)
        limit = 1.0 / config.vocabulary
        rows = torch.empty(config.vocabulary, config.width).uniform_(-limit, limit)
        self.codebook = nn.Parameter(F.normalize(rows, dim=1))
        self.register_buffer("usage", torch.full((config.vocabulary,), limit))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @classmethod
    def tiny(cls) -> Self:
        autoencoder = AutoencoderConfig(2, width=8, blocks=1, decoder_blocks=1, groups=2)
        return cls.seeded(VQConfig(autoencoder, vocabulary=16, width=4), 0)

    def nearest(self, latents: Tensor) -> Tensor:
        # argmax of cosine = argmin of distance on unit vectors; the length of a latent scales all
        # cosines alike, so it need not be removed
        return most_similar(latents.permute(0, 2, 3, 1), F.normalize(self.codebook, dim=1))

    def lookup(self, codes: Tensor) -> Tensor:
        return F.embedding(codes, F.normalize(self.codebook, dim=1)).permute(0, 3, 1, 2)

    def distances(self, latents: Tensor) -> Tensor:
        """Squared distances of unit vectors, 0 to 4 (but for rounding)."""
        with torch.autocast(latents.device.type, enabled=False):
            unit = F.normalize(in_raster_order(latents), dim=-1)
            return 2.0 - 2.0 * unit @ F.normalize(self.codebook.float(), dim=1).T

    def quantize(self, latents: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        unit = F.normalize(latents, dim=1)
        if self.training:
            self._revive(unit.detach())
        with torch.no_grad():
            codes = self.nearest(unit)
        if self.training:
            self._count(codes)
        nearest = self.lookup(codes)
        losses = {
            "codebook": F.mse_loss(nearest, unit.detach()),
            "commitment": self.config.commitment * F.mse_loss(unit, nearest.detach()),
        }
        if self.config.entropy:
            losses["entropy"] = self.config.entropy * self.entropy_contrast(unit)
        return unit + (nearest - unit).detach(), codes, losses

    def entropy_contrast(self, unit: Tensor) -> Tensor:
        """Mean entropy of the soft assignment of each latent, minus the entropy of its mean; nats.

        `unit` is (B, D, h, w) of unit length. The first term makes assignments sure, the second
        spreads them over the codebook.
        """
        flat = unit.permute(0, 2, 3, 1).flatten(0, 2)
        # squared distance of unit vectors is 2 - 2 cosine; the constant drops out of the softmax
        cosine = flat @ F.normalize(self.codebook, dim=1).T
        soft = (2.0 * cosine / self.config.temperature).softmax(dim=-1)
        return entropy(soft).mean() - entropy(soft.mean(dim=0))

    @torch.no_grad()
    def _count(self, codes: Tensor) -> None:
        share = torch.bincount(codes.flatten(), minlength=self.vocabulary) / codes.numel()
        self.usage.lerp_(share, 1.0 - self.config.usage_decay)
        self.step += 1

    @torch.no_grad()
    def _revive(self, unit: Tensor) -> None:
        """Move codes that are hardly used onto latents that are badly served.

        The draw depends only on `config.seed` and the step count, which is saved, so resumed
        training revives the same codes.
        """
        dead = (self.usage < self.config.dead_below / self.vocabulary).nonzero().flatten()
        if len(dead) == 0:
            return
        flat = unit.permute(0, 2, 3, 1).flatten(0, 2)
        cosine = (flat @ F.normalize(self.codebook, dim=1).T).amax(dim=-1)
        distance = (1.0 - cosine).clamp_min(0.0).double().cpu()
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + int(self.step))
        moved = badly_served(flat, distance, len(dead), generator)
        dead = dead[: len(moved)]
        self.codebook[dead] = F.normalize(moved, dim=1).to(self.codebook.dtype)
        self.usage[dead] = 1.0 / self.vocabulary
