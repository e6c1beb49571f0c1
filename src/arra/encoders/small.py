"""A small encoder of our own for small pictures, to be trained on the training pictures alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from arra.encoders.base import Encoder, Features, check_pixels
from arra.encoders.preprocessing import Preprocessing
from arra.errors import InputError
from arra.registry import encoders


@dataclass(frozen=True)
class SmallConfig:
    """Size and shape of a small encoder."""

    body: Literal["conv", "vit"] = "conv"
    """"conv": residual convolutions, the cheaper one below a few thousand steps; "vit": a
    transformer."""
    width: int = 64
    """Channels of the patch features."""
    depth: int = 1
    """Residual blocks at each resolution ("conv"), or transformer blocks ("vit")."""
    downsample: int = 4
    """Pixels per patch along each side; a power of two for "conv"."""
    dim: int = 128
    """Length of the CLS vector."""
    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing(size=24))
    """How pictures become pixels; its size is the side of the pictures that the encoder reads."""

    def __post_init__(self) -> None:
        size, step = self.preprocessing.size, self.downsample
        if self.body not in ("conv", "vit"):
            raise InputError(f"SmallConfig.body: {self.body!r}, expected conv or vit")
        if step < 1 or size % step:
            raise InputError(f"SmallConfig.downsample: {step}, expected a divisor of {size} pixels")
        if self.body == "conv" and (step < 2 or step & (step - 1)):
            raise InputError(f"SmallConfig.downsample: {step}, expected 2, 4, 8, ... for 'conv'")
        if self.width < 8 or self.width % 8:
            raise InputError(f"SmallConfig.width: {self.width}, expected a multiple of 8")
        if self.depth < 1 or self.dim < 1:
            raise InputError("SmallConfig: expected depth and dim of 1 or more")
        if self.preprocessing.fit == "pad":
            raise InputError(
                "SmallConfig.preprocessing: fit 'pad' is not trained; use crop or stretch"
            )

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.preprocessing.size // self.downsample


class _Residual(nn.Module):
    """Two normalised 3 x 3 convolutions beside the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.branch = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        nn.init.zeros_(self.branch[-1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def _convolutions(config: SmallConfig) -> nn.Sequential:
    """(B, 3, S, S) to (B, width, g, g). Half the width until the last resolution is reached."""
    half = max(config.width // 2 // 8 * 8, 8)
    layers: list[nn.Module] = []
    channels, steps = 3, config.downsample.bit_length() - 1
    for step in range(steps):
        width = config.width if step == steps - 1 else half
        layers.append(nn.Conv2d(channels, width, 4, stride=2, padding=1))
        layers += [_Residual(width) for _ in range(config.depth)]
        channels = width
    return nn.Sequential(*layers)


class _ConvBody(nn.Module):
    """Patches are the last feature map; CLS is read from all places of it."""

    def __init__(self, config: SmallConfig):
        super().__init__()
        places, narrow = config.grid**2, max(config.width // 4, 1)
        # channels last: a quarter faster on CPUs
        self.layers = _convolutions(config)
        self.layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.norm = nn.LayerNorm(config.width)
        # A mean over places forgets where things are; a narrow copy of every place remembers.
        self.narrow = nn.Linear(config.width, narrow)
        self.cls = nn.Linear(config.width + places * narrow, config.dim)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.norm(self.layers(pixels).flatten(2).transpose(1, 2))
        spread = nn.functional.gelu(self.narrow(patches)).flatten(1)
        return self.cls(torch.cat([patches.mean(dim=1), spread], dim=-1)), patches


class _TransformerBody(nn.Module):
    """A ViT (2010.11929) with a class token and learned positions."""

    def __init__(self, config: SmallConfig):
        super().__init__()
        width, step = config.width, config.downsample
        self.patch = nn.Conv2d(3, width, step, stride=step)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, config.grid**2 + 1, width) * 0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                max(width // 32, 1) if width % 32 == 0 else 1,
                4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width)
        self.cls = nn.Linear(width, config.dim)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = self.patch(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.cls(x[:, 0]), x[:, 1:]


@encoders.register("small")
class SmallEncoder(Encoder):
    """A small encoder. Fresh ones have random weights; `train_encoder` makes better ones."""

    Config = SmallConfig
    config: SmallConfig

    def __init__(self, config: SmallConfig):
        super().__init__(config)
        self.network = _ConvBody(config) if config.body == "conv" else _TransformerBody(config)
        self.freeze()

    @classmethod
    def tiny(cls) -> SmallEncoder:
        """16 pixels, a grid of 4 x 4."""
        config = SmallConfig(width=16, depth=1, dim=8, preprocessing=Preprocessing(size=16))
        return cls.seeded(config, 0)

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Pixels (B, 3, S, S) float32."""
        return self.config.preprocessing(images)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Features:
        """Features of pixels (B, 3, S, S): cls (B, dim), patches (B, grid * grid, width)."""
        check_pixels(pixels, self.config.preprocessing.size)
        cls, patches = self.network(pixels.to(self.device))
        return Features(cls=cls, patches=patches)

    def identity(self) -> dict[str, Any]:
        """Digest of configuration and weights, and the preprocessing."""
        return {
            "encoder": self.registered_name,
            "weights": self.fingerprint(),
            "preprocessing": self.config.preprocessing.identity(),
        }
