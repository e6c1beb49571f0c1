"""Codes that are vectors: pictures as grids of latents, for generators with a law of vectors.

A code is a row of C numbers of about unit spread. `encode` gives grids (B, h, w, C), which a store
keeps as float32; nothing is quantised.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arra.codecs.autoencoder import AutoencoderConfig, Decoder, Encoder
from arra.codecs.base import Codec, CodecOutput
from arra.errors import InputError
from arra.pixels import to_unit
from arra.registry import codecs

_LEAST = 1e-4  # deviation of numbers that never change
_SOFTEST = 20.0


class LatentCodec(Codec):
    """Pictures to grids of vectors (B, h, w, C) float32 and back.

    A subclass gives the latents as its networks have them, (B, C, h, w); here they are shifted and
    scaled to zero mean and unit spread, by a mean and a deviation that are part of the codec.
    """

    vocabulary = 0
    codes_axes = ("h", "w", "c")
    mean: Tensor
    deviation: Tensor

    def __init__(self, config: Any, dimensions: int):
        super().__init__(config)
        self.dimensions = dimensions
        self.register_buffer("mean", torch.zeros(dimensions))
        self.register_buffer("deviation", torch.ones(dimensions))

    @abstractmethod
    def latents(self, pictures: Tensor) -> Tensor:
        """(B, C, h, w) of pictures."""

    @abstractmethod
    def paint(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), not clamped, of latents (B, C, h, w)."""

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        self._check_pictures(pictures)
        return (self.latents(pictures).permute(0, 2, 3, 1) - self.mean) / self.deviation

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        self._check_codes(codes)
        latents = (codes * self.deviation + self.mean).permute(0, 3, 1, 2)
        return self.paint(latents).clamp(-1.0, 1.0).contiguous()

    def prompts(self, codes: Tensor, blocks: int) -> Tensor:
        raise InputError(f"a {self.registered_name} codec: its codes are vectors, and no prompt")

    def appearance(self) -> Tensor:
        raise InputError(f"a {self.registered_name} codec: its codes are vectors, not a table")

    def _check_codes(self, codes: Tensor) -> None:
        good = codes.ndim == 4 and codes.shape[3] == self.dimensions
        if not good or not codes.is_floating_point():
            raise InputError(
                f"codes: {tuple(codes.shape)} {codes.dtype}, expected float (B, h, w, "
                f"{self.dimensions})"
            )


@dataclass(frozen=True)
class PixelConfig:
    """Squares of pixels."""

    side: int = 2
    """Pixels along each side of a square; its 3 side^2 numbers are one vector."""
    frames: int = 1
    """Of a clip; a square's vector has those of all frames, side by side."""
    rate: float = 8.0
    """Frames a second at which clips are shown."""

    def __post_init__(self) -> None:
        for name in ("side", "frames"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"PixelConfig.{name}: {value}, expected 1 or more")


@codecs.register("pixels")
class PixelCodec(LatentCodec):
    """The pixels of each square, as they are, of pictures or clips: a codec that loses nothing."""

    Config = PixelConfig
    config: PixelConfig

    def __init__(self, config: PixelConfig):
        super().__init__(config, 3 * config.frames * config.side**2)
        self.downsample, self.channels = config.side, 3 * config.frames
        if config.frames > 1:
            self.rate = config.rate

    @classmethod
    def tiny(cls) -> Self:
        return cls.seeded(PixelConfig(2), 0)

    @classmethod
    def fit(cls, pictures: np.ndarray, config: PixelConfig) -> Self:
        """With the mean and the one deviation of pictures (N, H, W, 3 frames) uint8."""
        codec = cls(config)
        found = codec.latents(to_unit(pictures, codec.channels))
        codec.mean.copy_(found.mean(dim=(0, 2, 3)))
        codec.deviation.fill_(max(float(found.std()), _LEAST))
        return codec.eval()

    def latents(self, pictures: Tensor) -> Tensor:
        return F.pixel_unshuffle(pictures, self.config.side)

    def paint(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(latents, self.config.side)

    def forward(self, pictures: Tensor) -> CodecOutput:
        """There is nothing to train: the reconstruction's gradient is that of the picture."""
        return CodecOutput(pictures, self.encode(pictures), {})


@dataclass(frozen=True)
class KLConfig:
    """A variational autoencoder."""

    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """Encoder and decoder."""
    dimensions: int = 8
    """C, numbers of a vector."""
    kl: float = 1e-4
    """Weight of the divergence from the standard normal law, in nats a number."""
    momentum: float = 0.01
    """How fast mean and deviation of the latents follow in training."""

    def __post_init__(self) -> None:
        if self.dimensions < 1 or self.kl < 0:
            raise InputError(
                f"KLConfig: dimensions {self.dimensions}, kl {self.kl}; expected 1 and 0 or more"
            )


@codecs.register("kl")
class KLCodec(LatentCodec):
    """Means of a variational autoencoder's posterior (VAE, arXiv 1312.6114; latent diffusion,
    arXiv 2112.10752). Training draws from the posterior; a store holds its mean."""

    Config = KLConfig
    config: KLConfig

    def __init__(self, config: KLConfig):
        super().__init__(config, config.dimensions)
        self.downsample = config.autoencoder.downsample
        self.channels = config.autoencoder.channels
        self.encoder = Encoder(config.autoencoder, 2 * config.dimensions)
        self.decoder = Decoder(config.autoencoder, config.dimensions)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def tiny(cls) -> Self:
        return cls.seeded(KLConfig(AutoencoderConfig(4, width=8, stem="patch"), 3), 0)

    def latents(self, pictures: Tensor) -> Tensor:
        return self._posterior(pictures)[0]

    def paint(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)

    def _posterior(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, (B, C, h, w) each."""
        mean, spread = self.encoder(pictures).float().chunk(2, dim=1)
        return mean, spread.clamp(-_SOFTEST, _SOFTEST)

    def forward(self, pictures: Tensor) -> CodecOutput:
        self._check_pictures(pictures)
        mean, spread = self._posterior(pictures)
        drawn = mean
        divergence = 0.5 * (mean.square() + spread.exp() - 1.0 - spread)
        if self.training:
            drawn = mean + torch.exp(0.5 * spread) * torch.randn_like(mean)
            self._follow(mean.detach())
        codes = (mean.detach().permute(0, 2, 3, 1) - self.mean) / self.deviation
        return CodecOutput(
            self.decoder(drawn), codes, {"kl": self.config.kl * divergence.mean()}, mean
        )

    def _follow(self, mean: Tensor) -> None:
        rows = mean.permute(0, 2, 3, 1).flatten(0, 2)
        now = self.config.momentum
        self.mean.lerp_(rows.mean(dim=0), now)
        self.deviation.lerp_(rows.std(dim=0).clamp(min=_LEAST), now)


@dataclass(frozen=True)
class DiffusersConfig:
    """An autoencoder of diffusers."""

    settings: dict[str, Any] = field(default_factory=dict)
    """Its configuration, as diffusers saves it."""


@codecs.register("autoencoder-kl")
class DiffusersCodec(LatentCodec):
    """`AutoencoderKL` of diffusers, the codec of latent diffusion: a copy of its weights.

    Means of the posterior, scaled by the factor (and shift) that its configuration names.
    """

    Config = DiffusersConfig
    config: DiffusersConfig
    needs: ClassVar[tuple[str, ...]] = ("diffusers",)

    def __init__(self, config: DiffusersConfig):
        model = _autoencoder(config.settings)
        super().__init__(config, model.config.latent_channels)
        self.model: Any = model
        self.downsample = 2 ** (len(model.config.block_out_channels) - 1)
        self.channels = model.config.in_channels
        self.mean.fill_(model.config.shift_factor or 0.0)
        self.deviation.fill_(1.0 / model.config.scaling_factor)

    @classmethod
    def tiny(cls) -> Self:
        settings = {
            "block_out_channels": [8, 16],
            "down_block_types": ["DownEncoderBlock2D"] * 2,
            "up_block_types": ["UpDecoderBlock2D"] * 2,
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "latent_channels": 3,
        }
        return cls.seeded(DiffusersConfig(settings), 0)

    @classmethod
    def load(cls, folder: str) -> Self:
        """That of a folder, or a name on the hub, that `AutoencoderKL.from_pretrained` reads."""
        from diffusers import AutoencoderKL

        theirs: Any = AutoencoderKL.from_pretrained(folder, use_safetensors=True)
        settings = {k: v for k, v in theirs.config.items() if not k.startswith("_")}
        codec = cls(DiffusersConfig(settings))
        codec.model.load_state_dict(theirs.state_dict())
        return codec.eval()

    def latents(self, pictures: Tensor) -> Tensor:
        return self.model.encode(pictures).latent_dist.mode()

    def paint(self, latents: Tensor) -> Tensor:
        return self.model.decode(latents).sample

    def forward(self, pictures: Tensor) -> CodecOutput:
        self._check_pictures(pictures)
        posterior = self.model.encode(pictures).latent_dist
        mean = posterior.mean
        codes = (mean.detach().permute(0, 2, 3, 1) - self.mean) / self.deviation
        painted = self.model.decode(posterior.sample() if self.training else mean).sample
        return CodecOutput(painted, codes, {"kl": 1e-6 * posterior.kl().mean()}, mean)


def _autoencoder(settings: dict[str, Any]) -> Any:
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise InputError(
            "codec autoencoder-kl: needs diffusers; pip install 'arra[diffusers]'"
        ) from error
    return AutoencoderKL(**settings)
