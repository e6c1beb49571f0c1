"""What a representation encoder is: frozen, one interface whatever stands behind it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from PIL import Image
from torch import Tensor

from arra.errors import InputError
from arra.networks.part import Part
from arra.registry import Registry, encoders

Aggregation = Literal["cls", "mean", "both"]


@dataclass(frozen=True)
class Features:
    """What an encoder says about a batch of pictures."""

    cls: Tensor | None
    """(B, D) one vector a picture, or None where the encoder has none (SAM)."""
    patches: Tensor | None
    """(B, N, D) one vector a patch in raster order, or None."""

    def aggregate(self, how: Aggregation) -> Tensor:
        """One global vector a picture: (B, D), or (B, 2 D) for "both" (CLS, then mean)."""
        if how in ("cls", "both") and self.cls is None:
            raise InputError("this encoder has no CLS vector: choose aggregation 'mean'")
        if how in ("mean", "both") and self.patches is None:
            raise InputError("this encoder has no patch vectors: choose aggregation 'cls'")
        parts = []
        if how in ("cls", "both"):
            assert self.cls is not None
            parts.append(self.cls)
        if how in ("mean", "both"):
            assert self.patches is not None
            parts.append(self.patches.mean(dim=1))
        return torch.cat(parts, dim=-1)


def check_pixels(pixels: Tensor, size: int) -> None:
    """`InputError` unless `pixels` are (B, 3, size, size)."""
    if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, size, size):
        raise InputError(f"pixels: shape {tuple(pixels.shape)}, expected (B, 3, {size}, {size})")


class Encoder(Part):
    """A frozen picture encoder: always in evaluation mode, no weight asks for a gradient."""

    registry: ClassVar[Registry] = encoders

    def freeze(self) -> Self:
        """Ask for no gradients and switch to evaluation mode; for the end of `__init__`."""
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode, also when a model that contains the encoder is trained."""
        return super().train(False)

    @abstractmethod
    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Pixels (B, 3, S, S) float as `encode` expects them, of RGB pictures of any size."""

    @abstractmethod
    def encode(self, pixels: Tensor) -> Features:
        """Features of pixels; no gradient."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What makes features of this encoder comparable: name, revision or fingerprint,
        preprocessing (size, mean, std, resampling). Stored beside the features."""
