"""The decoder of a VQGAN (Esser et al., 2021, arXiv 2012.09841), with the names of its weights.

transformers reads Chameleon's pictures but does not draw them; its decoder is this one.
"""

from __future__ import annotations

from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.chameleon.modeling_chameleon import (
    ChameleonVQVAEEncoderAttnBlock as AttentionBlock,
)
from transformers.models.chameleon.modeling_chameleon import (
    ChameleonVQVAEEncoderResnetBlock as ResidualBlock,
)


class VQGANDecoder(nn.Module):
    """Latents (B, latent_channels, h, w) to pictures (B, 3, H, W): the encoder run backwards."""

    def __init__(self, config: Any):
        super().__init__()
        widths = [config.base_channels * factor for factor in config.channel_multiplier]
        side = config.resolution // 2 ** (len(widths) - 1)
        width = widths[-1]
        self.conv_in = nn.Conv2d(config.latent_channels, width, 3, padding=1)
        self.mid = nn.Module()
        self.mid.block_1 = ResidualBlock(config, width, width)
        self.mid.attn_1 = AttentionBlock(width) if config.attn_type == "vanilla" else nn.Identity()
        self.mid.block_2 = ResidualBlock(config, width, width)
        levels: list[nn.Module] = []
        for level in reversed(range(len(widths))):
            up = nn.Module()
            blocks, attention = [], []
            for _ in range(config.num_res_blocks + 1):
                blocks.append(ResidualBlock(config, width, widths[level]))
                width = widths[level]
                if side in (config.attn_resolutions or ()):
                    attention.append(AttentionBlock(width))
            up.block, up.attn = nn.ModuleList(blocks), nn.ModuleList(attention)
            if level:
                up.upsample = nn.Module()
                up.upsample.conv = nn.Conv2d(width, width, 3, padding=1)
                side *= 2
            levels.insert(0, up)
        self.up = nn.ModuleList(levels)  # numbered as the encoder's: the finest is 0
        self.norm_out = nn.GroupNorm(32, width, eps=1e-6)
        self.conv_out = nn.Conv2d(width, config.in_channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        mid: Any = self.mid
        x = mid.block_2(mid.attn_1(mid.block_1(self.conv_in(latents))))
        for level in reversed(range(len(self.up))):
            up = cast(Any, self.up[level])
            for number, block in enumerate(up.block):
                x = block(x)
                if len(up.attn):
                    x = up.attn[number](x)
            if level:
                x = up.upsample.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(x)))
