"""What discrete codecs share: an autoencoder around a quantiser, and the checks of their input."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from arra.codecs.autoencoder import AutoencoderConfig, Decoder, Encoder
from arra.codecs.base import Codec, CodecOutput


class AutoencodedCodec(Codec):
    """Encoder, quantiser, decoder. A subclass says how latents (B, D, h, w) become codes and back.

    A configuration of a subclass has a field `autoencoder: AutoencoderConfig`.
    """

    def __init__(self, config: Any, vocabulary: int, width: int):
        """`width` is D, the number of dimensions of a latent vector."""
        super().__init__(config)
        autoencoder: AutoencoderConfig = config.autoencoder
        self.vocabulary, self.width = vocabulary, width
        self.downsample, self.channels = autoencoder.downsample, autoencoder.channels
        self.encoder = Encoder(autoencoder, width)
        self.decoder = Decoder(autoencoder, width)
        # Part of the codec, not of its training: another layout rounds differently, and a latent on
        # the border between two codes would then change its code from one machine run to the next.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @abstractmethod
    def nearest(self, latents: Tensor) -> Tensor:
        """Codes (B, ...) int64 of latents (B, D, h, w)."""

    @abstractmethod
    def lookup(self, codes: Tensor) -> Tensor:
        """Latents (B, D, h, w) of codes (B, ...), those that the decoder reads."""

    @abstractmethod
    def quantize(self, latents: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantised latents with straight-through gradient, codes, and weighted losses."""

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        self._check_pictures(pictures)
        return self.nearest(self.encoder(pictures))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        self._check_codes(codes)
        return self.decoder(self.lookup(codes)).clamp(-1.0, 1.0).contiguous()

    def forward(self, pictures: Tensor) -> CodecOutput:
        self._check_pictures(pictures)
        latents = self.encoder(pictures)
        # distances and entropies need more digits than an autocast forward has
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.float()
            quantized, codes, losses = self.quantize(latents)
        return CodecOutput(self.decoder(quantized), codes, losses, latents)


class QuantizedCodec(AutoencodedCodec):
    """A codec with one code for each latent: codes are (B, h, w), and `nearest(lookup(codes))` is
    `codes`."""

    @abstractmethod
    def distances(self, latents: Tensor) -> Tensor:
        """(B, n, K) float32, with gradient: how far each of n = h w latents is from each code.

        Latents (B, D, h, w) in raster order; the code of a latent is the nearest one.
        """

    def soft_assignment(self, latents: Tensor, temperature: float) -> Tensor:
        """(B, n, K) float32, with gradient: softmax(-distances / temperature) over the codes.

        The differentiable reading of what `nearest` decides (GEAR, arXiv 2606.32039). It holds
        B n K numbers: 0.5 GB for 32 pictures of 256 codes among 16384.
        """
        return torch.softmax(-self.distances(latents) / temperature, dim=-1)


def in_raster_order(latents: Tensor) -> Tensor:
    """(B, n, D) float32 of latents (B, D, h, w), n = h w."""
    return latents.float().flatten(2).transpose(1, 2)


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy in nats over the last dimension; 0 log 0 is 0, with a finite gradient."""
    return -(probabilities * probabilities.clamp_min(1e-12).log()).sum(dim=-1)
