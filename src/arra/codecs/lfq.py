"""Lookup-free quantisation: a code is the number whose binary digits are the signs of the latent.

Source: Yu et al. 2023, "Language Model Beats Diffusion", section 3.1, equations 2 to 6.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from arra.codecs.autoencoder import AutoencoderConfig
from arra.codecs.quantized import QuantizedCodec, entropy, in_raster_order
from arra.errors import InputError
from arra.registry import codecs


@dataclass(frozen=True)
class LFQConfig:
    """A lookup-free codec."""

    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """Encoder and decoder."""
    bits: int = 10
    """Binary digits of a code; the vocabulary has 2 ** bits codes."""
    commitment: float = 0.25
    """Weight of the squared distance between latent and signs."""
    entropy: float = 0.1
    """Weight of (per-sample entropy - `diversity` * entropy of the batch)."""
    diversity: float = 1.0
    """Weight of the batch entropy relative to the per-sample entropy."""
    temperature: float = 1.0
    """Softness of the assignment to codes, in units of squared distance."""
    exact_bits: int = 16
    """Up to this many bits the batch entropy is that of the joint law of all bits; with more, the
    sum over single bits, which is an upper bound of it."""

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 30:
            raise InputError(f"LFQConfig.bits: {self.bits}, expected 1 to 30")
        if self.temperature <= 0:
            raise InputError(f"LFQConfig.temperature: {self.temperature}, expected more than 0")
        if not 0 <= self.exact_bits <= 20:
            raise InputError(f"LFQConfig.exact_bits: {self.exact_bits}, expected 0 to 20")


@codecs.register("lfq")
class LFQCodec(QuantizedCodec):
    """Codes are sign patterns, first channel the most significant bit; there is no codebook."""

    Config = LFQConfig
    config: LFQConfig
    place: Tensor

    def __init__(self, config: LFQConfig):
        super().__init__(config, 2**config.bits, config.bits)
        place = 2 ** torch.arange(config.bits - 1, -1, -1)
        self.register_buffer("place", place, persistent=False)

    @classmethod
    def tiny(cls) -> Self:
        autoencoder = AutoencoderConfig(2, width=8, blocks=1, decoder_blocks=1, groups=2)
        return cls.seeded(LFQConfig(autoencoder, bits=5), 0)

    def nearest(self, latents: Tensor) -> Tensor:
        return ((latents > 0).long() * self.place[:, None, None]).sum(dim=1)

    def lookup(self, codes: Tensor) -> Tensor:
        bits = (codes[:, None] & self.place[:, None, None]) != 0
        dtype = next(self.decoder.parameters()).dtype
        return bits.to(dtype) * 2.0 - 1.0

    def distances(self, latents: Tensor) -> Tensor:
        """-2 <latent, signs of the code>: the squared distance without what all codes share."""
        self._check_enumerable()
        signs = self.lookup(torch.arange(self.vocabulary, device=latents.device).view(1, 1, -1))
        with torch.autocast(latents.device.type, enabled=False):
            return -2.0 * in_raster_order(latents) @ signs[0, :, 0].float()

    def soft_assignment(self, latents: Tensor, temperature: float) -> Tensor:
        """(B, n, K) float32: the product over bits of P(bit d is 1) = sigmoid(4 z_d / temperature).

        It is softmax(-distances / temperature), without a product with all sign patterns.
        """
        self._check_enumerable()
        flat = in_raster_order(latents)
        return joint_law(torch.sigmoid(4.0 * flat / temperature).flatten(0, 1)).unflatten(
            0, flat.shape[:2]
        )

    def _check_enumerable(self) -> None:
        if self.config.bits > 20:
            raise InputError(
                f"LFQConfig.bits: {self.config.bits}; distances to all codes can be held for 20 "
                "bits or fewer"
            )

    def quantize(self, latents: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        codes = self.nearest(latents)
        signs = self.lookup(codes).to(latents.dtype)
        losses = {}
        if self.config.commitment:
            losses["commitment"] = self.config.commitment * F.mse_loss(latents, signs)
        if self.config.entropy:
            losses["entropy"] = self.config.entropy * self.entropy_contrast(latents)
        return latents + (signs - latents).detach(), codes, losses

    def entropy_contrast(self, latents: Tensor) -> Tensor:
        """Mean per-sample entropy minus `diversity` times the entropy of the batch mean; nats.

        The soft assignment of a latent z is softmax over codes c in {-1, 1}^bits of -|z - c|^2 /
        temperature. It factorises over bits, P(bit d is 1) = sigmoid(4 z_d / temperature), so the
        per-sample entropy is a sum over bits, exactly. Its mean over a batch does not factorise:
        see `exact_bits`.
        """
        flat = latents.permute(0, 2, 3, 1).flatten(0, 2).float()
        ones = torch.sigmoid(4.0 * flat / self.config.temperature)
        sample = _binary_entropy(ones).sum(dim=-1).mean()
        if self.config.bits <= self.config.exact_bits:
            batch = entropy(mean_law(ones).flatten())
        else:
            batch = _binary_entropy(ones.mean(dim=0)).sum()
        return sample - self.config.diversity * batch


def _binary_entropy(ones: Tensor) -> Tensor:
    return entropy(torch.stack([ones, 1.0 - ones], dim=-1))


def joint_law(ones: Tensor) -> Tensor:
    """(N, 2 ** d) law of d independent bits with probabilities `ones` (N, d), first bit highest."""
    law = ones.new_ones(len(ones), 1)
    for bit in ones.unbind(dim=1):
        law = torch.stack([law * (1.0 - bit)[:, None], law * bit[:, None]], dim=-1).flatten(1)
    return law


def mean_law(ones: Tensor) -> Tensor:
    """Mean over N of the joint law of d independent bits, (2 ** (d // 2), 2 ** (d - d // 2)).

    Row and column are the high and the low half of a code. One matrix product of the two halves
    gives it without ever holding N laws of 2 ** d entries.
    """
    half = ones.shape[1] // 2
    return joint_law(ones[:, :half]).T @ joint_law(ones[:, half:]) / len(ones)
