"""Pictures as people store them and as networks read them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_unit(pictures: np.ndarray | Tensor) -> Tensor:
    """(N, 3, H, W) float32 in [-1, 1] of pictures (N, H, W, 3) uint8."""
    pixels = torch.as_tensor(pictures)
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_uint8(pixels: Tensor) -> np.ndarray:
    """(N, H, W, 3) uint8 of pixels (N, 3, H, W) in [-1, 1], rounded and clamped."""
    levels = ((pixels.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(levels.permute(0, 2, 3, 1).cpu().numpy())
