"""Squares of pixels as codes, by their nearest neighbour in a table: no network at all.

Of one pixel with evenly spaced levels these are pixels themselves; of one pixel with clusters of
colours the palette of ImageGPT (Chen et al., 2020, section 2.1); of larger squares plain vector
quantisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arra.codecs.base import Codec, CodecOutput
from arra.codecs.quantized import most_similar
from arra.errors import InputError
from arra.pixels import to_unit
from arra.registry import codecs


@dataclass(frozen=True)
class PatchConfig:
    """A table of squares."""

    side: int = 1
    """Pixels along each side of a square."""
    vocabulary: int = 16
    """Rows of the table."""

    def __post_init__(self) -> None:
        if self.side < 1 or self.vocabulary < 2:
            raise InputError(
                f"PatchConfig: side {self.side}, vocabulary {self.vocabulary}; expected 1 and 2 or "
                "more"
            )


@codecs.register("patches")
class PatchCodec(Codec):
    """Codes (B, h, w): the row of the table that is nearest to each square."""

    Config = PatchConfig
    config: PatchConfig
    table: Tensor

    def __init__(self, config: PatchConfig):
        super().__init__(config)
        self.vocabulary, self.downsample = config.vocabulary, config.side
        self.width = 3 * config.side**2
        self.register_buffer("table", torch.rand(config.vocabulary, self.width) * 2 - 1)

    @classmethod
    def tiny(cls) -> Self:
        return cls.seeded(PatchConfig(2, 16), 0)

    @classmethod
    def levels(cls, count: int, colour: bool = False) -> Self:
        """Pixels themselves: `count` evenly spaced greys, or as many levels of each of red, green
        and blue (`count`^3 codes)."""
        steps = torch.linspace(-1.0, 1.0, count)
        table = (
            torch.cartesian_prod(steps, steps, steps) if colour else steps[:, None].expand(-1, 3)
        )
        codec = cls.seeded(PatchConfig(1, len(table)), 0)
        codec.table.copy_(table)
        return codec.eval()

    @classmethod
    def fit(cls, pictures: np.ndarray, config: PatchConfig, *, seed: int = 0) -> Self:
        """A table of the centres of k-means over all squares of pictures (N, H, W, 3) uint8."""
        from sklearn.cluster import KMeans

        codec = cls.seeded(config, seed)
        squares = codec.squares(to_unit(pictures)).permute(0, 2, 3, 1).reshape(-1, codec.width)
        found = KMeans(config.vocabulary, n_init=1, random_state=seed).fit(squares.numpy())
        codec.table.copy_(torch.from_numpy(found.cluster_centers_))
        return codec.eval()

    def squares(self, pictures: Tensor) -> Tensor:
        """(B, 3 side^2, h, w): the pixels of each square."""
        return F.pixel_unshuffle(pictures, self.config.side)

    def nearest(self, squares: Tensor) -> Tensor:
        """Codes (B, h, w) of squares (B, 3 side^2, h, w)."""
        # |x - t|^2 = |x|^2 - 2 (x t - |t|^2 / 2), and the first term is the same for all rows
        rows = squares.permute(0, 2, 3, 1)
        return most_similar(rows, self.table, -0.5 * self.table.square().sum(dim=1))

    def lookup(self, codes: Tensor) -> Tensor:
        """Squares (B, 3 side^2, h, w) of codes (B, h, w)."""
        return F.embedding(codes, self.table).permute(0, 3, 1, 2)

    def code_vectors(self) -> Tensor:
        return self.table.float().clone()

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        self._check_pictures(pictures)
        return self.nearest(self.squares(pictures))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        self._check_codes(codes)
        return F.pixel_shuffle(self.lookup(codes), self.config.side).clamp(-1.0, 1.0)

    def forward(self, pictures: Tensor) -> CodecOutput:
        """There is nothing to train: the reconstruction's gradient is that of the picture."""
        codes = self.encode(pictures)
        gap = (self.decode(codes) - pictures).detach()
        return CodecOutput(pictures + gap, codes, {})
