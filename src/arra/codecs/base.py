"""What a codec is: pictures to a grid of codes and back."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from arra.networks.part import Part
from arra.registry import Registry, codecs


@dataclass(frozen=True)
class CodecOutput:
    """What one training pass of a codec gives."""

    reconstruction: Tensor
    """(B, channels, H, W), about [-1, 1]."""
    codes: Tensor
    """(B, h, w) int64."""
    losses: dict[str, Tensor]
    """Named scalars, already weighted: their sum is the codec's own loss (its quantiser's, say).
    The error of the reconstruction is not among them: training weighs that."""


class Codec(Part):
    """Pictures (B, 3, H, W) float in [-1, 1] to codes (B, h, w) int64 < `vocabulary`, and back."""

    registry: ClassVar[Registry] = codecs

    vocabulary: int
    """Number of different codes."""
    downsample: int
    """Pixels per code along each side: h = H / downsample."""

    @abstractmethod
    def encode(self, pictures: Tensor) -> Tensor:
        """Codes (B, h, w) int64 of pictures (B, 3, H, W) in [-1, 1]; no gradient."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) clamped to [-1, 1] of codes (B, h, w); no gradient.

        Raises `InputError` when a code is negative or not below `vocabulary`.
        """

    @abstractmethod
    def forward(self, pictures: Tensor) -> CodecOutput:
        """Reconstruction with straight-through gradient, codes and losses, for training."""
