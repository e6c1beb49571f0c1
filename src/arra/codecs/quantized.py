"""What discrete codecs share: an autoencoder around a quantiser, and the checks of their input."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from arra.codecs.autoencoder import AutoencoderConfig, Decoder, Encoder
from arra.codecs.base import Codec, CodecOutput

# Scores that stay in a processor's cache between being computed and being read; on a GPU, where
# they go to memory anyway, the bound only keeps the memory of a large codebook small.
_SCORES, _SCORES_GPU = 1 << 20, 1 << 27


class AutoencodedCodec(Codec):
    """Encoder, quantiser, decoder. A subclass says how latents (B, D, h, w) become codes and back.

    A configuration of a subclass has a field `autoencoder: AutoencoderConfig`.
    """

    def __init__(self, config: Any, vocabulary: int, width: int, read: int | None = None):
        """`width` is D, the number of dimensions of a latent vector; `read` how many the decoder
        takes, if they are others."""
        super().__init__(config)
        autoencoder: AutoencoderConfig = config.autoencoder
        self.vocabulary, self.width = vocabulary, width
        self.downsample, self.channels = autoencoder.downsample, autoencoder.channels
        self.encoder = Encoder(autoencoder, width)
        self.decoder: Any = Decoder(autoencoder, width if read is None else read)
        # Part of the codec, not of its training: another layout rounds differently, and a latent on
        # the border between two codes would then change its code from one machine run to the next.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _settings(self) -> dict[str, Any]:
        settings = super()._settings()
        if not settings["autoencoder"]["latent"]:  # codecs from before it was there are the same
            del settings["autoencoder"]["latent"]
        return settings

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

    @torch.no_grad()
    def code_vectors(self) -> Tensor:
        every = torch.arange(self.vocabulary, device=self.device)
        return self.lookup(every[:, None, None]).flatten(1).float().clone()

    def soft_assignment(self, latents: Tensor, temperature: float) -> Tensor:
        """(B, n, K) float32, with gradient: softmax(-distances / temperature) over the codes.

        The differentiable reading of what `nearest` decides (GEAR, arXiv 2606.32039). It holds
        B n K numbers: 0.5 GB for 32 pictures of 256 codes among 16384.
        """
        return torch.softmax(-self.distances(latents) / temperature, dim=-1)


@torch.no_grad()
def most_similar(vectors: Tensor, table: Tensor, bias: Tensor | None = None) -> Tensor:
    """(...) int64: for vectors (..., D) the row k of `table` (K, D) of largest <v, row> + bias[k].

    All scores at once would be K numbers a vector, most of the time of a codec with a narrow
    encoder; in blocks the codes are the same (of equal scores the first wins, too).
    """
    flat = vectors.reshape(-1, vectors.shape[-1])
    limit = _SCORES if flat.device.type == "cpu" else _SCORES_GPU
    rows = max(1, limit // len(table))
    found = [_best(block @ table.T, bias) for block in flat.split(rows)]
    codes = torch.cat(found) if found else flat.new_empty(0, dtype=torch.int64)
    return codes.view(vectors.shape[:-1])


def _best(scores: Tensor, bias: Tensor | None) -> Tensor:
    if bias is not None:
        scores = scores + bias
    if scores.device.type == "cpu" and scores.dtype == torch.float32:
        # NumPy's search is vectorised where torch's is not: four times as fast
        return torch.from_numpy(scores.numpy().argmax(axis=-1))
    return scores.argmax(dim=-1)


def in_raster_order(latents: Tensor) -> Tensor:
    """(B, n, D) float32 of latents (B, D, h, w), n = h w."""
    return latents.float().flatten(2).transpose(1, 2)


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy in nats over the last dimension; 0 log 0 is 0, with a finite gradient."""
    return -(probabilities * probabilities.clamp_min(1e-12).log()).sum(dim=-1)
