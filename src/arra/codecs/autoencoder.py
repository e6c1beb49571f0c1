"""Convolutional encoder and decoder between pictures and a coarse grid of latent vectors.

Shapes: B pictures, C channels, H x W pixels, h x w grid with h = H / downsample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arra.errors import InputError


@dataclass(frozen=True)
class AutoencoderConfig:
    """Size and shape of the encoder and of the decoder that mirrors it."""

    downsample: int = 4
    """Pixels per grid cell along each side. The "conv" stem needs a power of two."""
    width: int = 64
    """Channels at the finest level."""
    multipliers: tuple[int, ...] = ()
    """Channels of each level as multiples of `width`, finest first: log2(downsample) + 1 entries
    with the "conv" stem, one with "patch". Empty means 1 everywhere."""
    blocks: int = 2
    """Residual blocks at each level of the encoder."""
    decoder_blocks: int = 3
    """Residual blocks at each level of the decoder."""
    kernels: tuple[int, int] = (3, 3)
    """Kernel sizes of the two convolutions of a residual block; (3, 1) costs about half."""
    stem: Literal["conv", "patch"] = "conv"
    """"conv": one stride-2 convolution between levels. "patch": one convolution whose kernel and
    stride are `downsample`, so that all blocks work on the coarse grid; far cheaper."""
    attention: bool = False
    """One self-attention layer over the coarse grid in encoder and decoder."""
    groups: int = 8
    """Groups of the group normalisation; must divide every width."""
    channels: int = 3
    """Channels of a picture."""
    latent: int = 0
    """More than 0: the shape of VQGAN (LlamaGen's tokenizer), with so many channels between the
    networks and the quantiser: attention behind every block of the coarse grid, and between two
    more; `attention` and `kernels` count for nothing. Needs the "conv" stem."""

    @classmethod
    def vqgan(cls, downsample: int = 16, width: int = 128) -> AutoencoderConfig:
        """LlamaGen's tokenizer (arXiv 2406.06525): 72 million parameters at 16 pixels a code, 70 at
        8, with 16384 codes of 8 dimensions."""
        multipliers = {8: (1, 2, 2, 4), 16: (1, 1, 2, 2, 4)}.get(downsample)
        if multipliers is None:
            raise InputError(f"AutoencoderConfig.vqgan: downsample {downsample}, expected 8 or 16")
        groups = min(32, width)
        return cls(downsample, width, multipliers, groups=groups, latent=2 * width)

    def __post_init__(self) -> None:
        def check(good: bool, field: str, expected: str) -> None:
            if not good:
                found = getattr(self, field)
                raise InputError(f"AutoencoderConfig.{field}: {found!r}, expected {expected}")

        check(self.stem in ("conv", "patch"), "stem", "'conv' or 'patch'")
        check(1 <= self.downsample <= 256, "downsample", "1 to 256")
        power = self.downsample & (self.downsample - 1) == 0
        check(power or self.stem == "patch", "downsample", "a power of two with the 'conv' stem")
        check(self.width >= 1, "width", "at least 1")
        check(self.blocks >= 0, "blocks", "at least 0")
        check(self.decoder_blocks >= 0, "decoder_blocks", "at least 0")
        odd = len(self.kernels) == 2 and all(k > 0 and k % 2 == 1 for k in self.kernels)
        check(odd, "kernels", "two odd sizes")
        right = len(self.multipliers) in (0, self.levels) and all(m >= 1 for m in self.multipliers)
        check(right, "multipliers", f"none, or {self.levels} positive entries for this stem")
        check(
            self.groups >= 1 and all(width % self.groups == 0 for width in self.widths),
            "groups",
            f"a divisor of the widths {self.widths}",
        )
        check(self.channels >= 1, "channels", "at least 1")
        fits = self.latent == 0 or (self.latent > 0 and self.stem == "conv")
        check(fits, "latent", "0, or channels with the 'conv' stem")

    @property
    def levels(self) -> int:
        """Resolutions at which residual blocks work."""
        return self.downsample.bit_length() if self.stem == "conv" else 1

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first; the last is the width of the coarse grid."""
        return tuple(self.width * m for m in self.multipliers or (1,) * self.levels)


def _norm(width: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, width, eps=1e-6)


class ResidualBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))), with a 1 x 1 shortcut where the width changes."""

    def __init__(self, inputs: int, width: int, kernels: tuple[int, int], groups: int):
        super().__init__()
        first, second = kernels
        self.norm1 = _norm(inputs, groups)
        self.conv1 = nn.Conv2d(inputs, width, first, padding=first // 2)
        self.norm2 = _norm(width, groups)
        self.conv2 = nn.Conv2d(width, width, second, padding=second // 2)
        self.shortcut = nn.Conv2d(inputs, width, 1) if inputs != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class GridAttention(nn.Module):
    """Residual single-head self-attention over all cells of a grid (B, C, h, w)."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.norm = _norm(width, groups)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.out(mixed.transpose(1, 2).reshape(x.shape))


class Shrink(nn.Module):
    """Halve both sides with a stride-2 convolution, padded right and below only (VQGAN)."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Grow(nn.Module):
    """Double both sides: nearest-neighbour enlargement, then a convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _attending(inputs: int, width: int, config: AutoencoderConfig, count: int) -> list[nn.Module]:
    """Residual blocks of the coarse grid, each with attention behind it (VQGAN)."""
    found: list[nn.Module] = []
    for number in range(count):
        before = inputs if number == 0 else width
        found.append(ResidualBlock(before, width, (3, 3), config.groups))
        found.append(GridAttention(width, config.groups))
    return found


def _middle(width: int, config: AutoencoderConfig) -> list[nn.Module]:
    """Attention between two residual blocks (VQGAN)."""
    return [
        *_attending(width, width, config, 1),
        ResidualBlock(width, width, (3, 3), config.groups),
    ]


def _vqgan_encoder(config: AutoencoderConfig, outputs: int) -> list[nn.Module]:
    """Layers from pictures to latents; a 1 x 1 convolution at the end leads to the quantiser."""
    widths, groups = config.widths, config.groups
    layers: list[nn.Module] = [nn.Conv2d(config.channels, config.width, 3, padding=1)]
    previous = config.width
    for level, width in enumerate(widths):
        if level:
            layers.append(Shrink(previous))
        if level == len(widths) - 1:
            layers += _attending(previous, width, config, config.blocks)
        else:
            layers += _blocks(previous, width, config.blocks, config)
        previous = width
    layers += _middle(previous, config)
    layers += [_norm(previous, groups), nn.SiLU()]
    last = nn.Conv2d(previous, config.latent, 3, padding=1)
    return [*layers, last, nn.Conv2d(config.latent, outputs, 1)]


def _vqgan_decoder(config: AutoencoderConfig, inputs: int) -> list[nn.Module]:
    """The encoder run backwards."""
    widths = config.widths[::-1]
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, config.latent, 1),
        nn.Conv2d(config.latent, widths[0], 3, padding=1),
        *_middle(widths[0], config),
    ]
    previous = widths[0]
    for level, width in enumerate(widths):
        if level:
            layers.append(Grow(previous))
            layers += _blocks(previous, width, config.decoder_blocks, config)
        else:
            layers += _attending(previous, width, config, config.decoder_blocks)
        previous = width
    layers += [_norm(previous, config.groups), nn.SiLU()]
    return [*layers, nn.Conv2d(previous, config.channels, 3, padding=1)]


def _blocks(inputs: int, width: int, count: int, config: AutoencoderConfig) -> list[nn.Module]:
    """`count` residual blocks; without any, a 1 x 1 convolution where the width has to change."""
    if count == 0:
        return [] if inputs == width else [nn.Conv2d(inputs, width, 1)]
    sizes = [inputs] + [width] * count
    return [ResidualBlock(a, width, config.kernels, config.groups) for a in sizes[:-1]]


class Encoder(nn.Module):
    """Pictures (B, C, H, W) to grids (B, `outputs`, h, w)."""

    def __init__(self, config: AutoencoderConfig, outputs: int):
        super().__init__()
        if config.latent:
            self.layers = nn.Sequential(*_vqgan_encoder(config, outputs))
            return
        widths = config.widths
        layers: list[nn.Module]
        if config.stem == "patch":
            # the same map as a strided convolution, but every step of it is fast on a CPU
            inputs = config.channels * config.downsample**2
            layers = [nn.PixelUnshuffle(config.downsample), nn.Conv2d(inputs, widths[0], 1)]
        else:
            layers = [nn.Conv2d(config.channels, widths[0], 3, padding=1)]
        previous = widths[0]
        for level, width in enumerate(widths):
            if level:
                layers.append(Shrink(previous))
            layers += _blocks(previous, width, config.blocks, config)
            previous = width
        if config.attention:
            layers.append(GridAttention(previous, config.groups))
        layers += [_norm(previous, config.groups), nn.SiLU(), nn.Conv2d(previous, outputs, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(pictures.contiguous(memory_format=torch.channels_last))


class Decoder(nn.Module):
    """Grids (B, `inputs`, h, w) to pictures (B, C, H, W), not clamped."""

    def __init__(self, config: AutoencoderConfig, inputs: int):
        super().__init__()
        if config.latent:
            self.layers = nn.Sequential(*_vqgan_decoder(config, inputs))
            return
        widths = config.widths[::-1]
        layers: list[nn.Module] = [nn.Conv2d(inputs, widths[0], 1)]
        if config.attention:
            layers.append(GridAttention(widths[0], config.groups))
        previous = widths[0]
        for level, width in enumerate(widths):
            if level:
                layers.append(Grow(previous))
            layers += _blocks(previous, width, config.decoder_blocks, config)
            previous = width
        layers += [_norm(previous, config.groups), nn.SiLU()]
        if config.stem == "patch":
            outputs = config.channels * config.downsample**2
            layers += [nn.Conv2d(previous, outputs, 1), nn.PixelShuffle(config.downsample)]
        else:
            layers.append(nn.Conv2d(previous, config.channels, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, grid: Tensor) -> Tensor:
        return self.layers(grid.contiguous(memory_format=torch.channels_last))
