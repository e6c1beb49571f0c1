"""A binary autoencoder: every dimension of a latent is a coin, its code how the coins fell (ELM,
arXiv 2410.16257, section 3; binary latents, arXiv 2304.04820).

The encoder gives D logits for each cell. A bit is drawn with probability p = sigmoid(logit), or is
1 where p > 1/2; the gradient passes through p, so that it is p (1 - p) for a logit and vanishes
where a bit is sure. The decoder reads a learned linear map of the bits. There is no
codebook, and nothing that could be left unused but the bits themselves.

Bits become codes of `split` times c bits, the first channel the highest bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, nn

from arra.codecs.autoencoder import AutoencoderConfig
from arra.codecs.lfq import joint_law
from arra.codecs.quantized import QuantizedCodec, in_raster_order
from arra.errors import InputError
from arra.registry import codecs


@dataclass(frozen=True)
class BinaryConfig:
    """A binary autoencoder."""

    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """Encoder and decoder."""
    bits: int = 10
    """D, the bits of a cell."""
    split: int = 1
    """m, how many codes a cell's bits make; a generator predicts them independently."""
    width: int = 64
    """Dimensions of the vectors whose sum over the set bits the decoder reads."""
    stochastic: bool = True
    """Whether bits are drawn in training (Bernoulli); encoding takes the likelier ones in any case,
    so that the codes of a picture are a function of it. `sampled` draws them."""
    normalised: bool = True
    """Whether a group norm stands before the decoder."""
    certainty: float = 0.0
    """Weight of mean p (1 - p): bits become surer of themselves."""
    seed: int = 0
    """Seed of the bits that are drawn in training."""

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 60:
            raise InputError(f"BinaryConfig.bits: {self.bits}, expected 1 to 60")
        if self.split < 1 or self.bits % self.split:
            raise InputError(f"BinaryConfig.split: {self.split}, expected a divisor of {self.bits}")
        if self.width < 1 or (self.normalised and self.width % self.autoencoder.groups):
            raise InputError(
                f"BinaryConfig.width: {self.width}, expected a multiple of "
                f"{self.autoencoder.groups} groups"
            )


class BitDecoder(nn.Module):
    """Bits (B, D, h, w) in [0, 1] to pictures: sum_d b_d e_d, a group norm, the decoder."""

    def __init__(self, config: BinaryConfig, decoder: nn.Module):
        super().__init__()
        self.embed = nn.Conv2d(config.bits, config.width, 1, bias=False)
        groups = config.autoencoder.groups
        self.norm = nn.GroupNorm(groups, config.width, eps=1e-6) if config.normalised else None
        self.decoder = decoder

    def forward(self, bits: Tensor) -> Tensor:
        vectors = self.embed(bits)
        return self.decoder(vectors if self.norm is None else self.norm(vectors))


@codecs.register("binary")
class BinaryCodec(QuantizedCodec):
    """Codes are the bits of a cell as numbers: (B, h, w), or with a split (B, h, w, m)."""

    Config = BinaryConfig
    config: BinaryConfig
    place: Tensor
    step: Tensor

    def __init__(self, config: BinaryConfig):
        each = config.bits // config.split
        super().__init__(config, 2**each, config.bits, config.width)
        self.decoder = BitDecoder(config, self.decoder).to(  # type: ignore[call-overload]
            memory_format=torch.channels_last
        )
        self.split = config.split
        if config.split > 1:
            self.codes_axes = ("h", "w", "m")
        self.register_buffer("place", 2 ** torch.arange(each - 1, -1, -1), persistent=False)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @classmethod
    def tiny(cls) -> Self:
        autoencoder = AutoencoderConfig(2, width=8, blocks=1, decoder_blocks=1, groups=2)
        # sixty steps teach something only without noise
        return cls.seeded(BinaryConfig(autoencoder, bits=5, width=8, stochastic=False), 0)

    def codes_of(self, bits: Tensor) -> Tensor:
        """Codes (B, h, w) or (B, h, w, m) of bits (B, D, h, w), 0 or 1."""
        digits = bits.long().movedim(1, -1).unflatten(-1, (self.split, -1))
        codes = (digits * self.place).sum(dim=-1)
        return codes if self.split > 1 else codes[..., 0]

    def nearest(self, latents: Tensor) -> Tensor:
        return self.codes_of(latents > 0)

    def lookup(self, codes: Tensor) -> Tensor:
        """Bits (B, D, h, w) of codes, 0 or 1."""
        digits = codes if self.split > 1 else codes[..., None]
        bits = (digits[..., None] & self.place) != 0
        dtype = next(self.decoder.parameters()).dtype
        return bits.flatten(-2).movedim(-1, 1).to(dtype)

    @torch.no_grad()
    def sampled(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Codes of `pictures` whose bits are drawn with their probabilities: what ELM trains on,
        other ones at every visit."""
        self._check_pictures(pictures)
        chances = torch.sigmoid(self.encoder(pictures)).cpu()
        return self.codes_of(torch.bernoulli(chances, generator=generator)).to(pictures.device)

    def quantize(self, latents: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        chances = torch.sigmoid(latents)
        bits = (latents > 0).to(chances.dtype)
        if self.training and self.config.stochastic:
            # a function of the seed and the step, which is saved: training repeats bit for bit
            generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + int(self.step))
            bits = torch.bernoulli(chances.detach().cpu(), generator=generator).to(bits)
            self.step += 1
        losses = {}
        if self.config.certainty:
            losses["certainty"] = self.config.certainty * (chances * (1.0 - chances)).mean()
        return chances + (bits - chances).detach(), self.codes_of(bits), losses

    def distances(self, latents: Tensor) -> Tensor:
        """-sum_d b_d logit_d: minus the log-probability of a code, without what all codes share."""
        self._check_enumerable()
        bits = self.lookup(torch.arange(self.vocabulary, device=latents.device).view(1, 1, -1))
        with torch.autocast(latents.device.type, enabled=False):
            return -in_raster_order(latents) @ bits[0, :, 0].float()

    def soft_assignment(self, latents: Tensor, temperature: float) -> Tensor:
        """(B, n, K) float32: the product over bits of sigmoid(logit / temperature)."""
        self._check_enumerable()
        flat = in_raster_order(latents)
        return joint_law(torch.sigmoid(flat / temperature).flatten(0, 1)).unflatten(
            0, flat.shape[:2]
        )

    def _check_enumerable(self) -> None:
        if self.config.split > 1 or self.config.bits > 20:
            raise InputError(
                f"BinaryConfig: {self.config.split} codes of {self.config.bits} bits; distances to "
                "all codes can be held for one code of 20 bits or fewer"
            )
