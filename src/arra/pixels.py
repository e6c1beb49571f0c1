"""Pictures as bytes and as numbers: uint8 (N, H, W, 3), and float (N, 3, H, W)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from arra.errors import InputError


def planes(pictures: Tensor | np.ndarray) -> Tensor:
    """(N, 3, H, W) uint8 of pictures (N, H, W, 3) or (N, 3, H, W) uint8; a view where possible."""
    if isinstance(pictures, np.ndarray):
        if pictures.dtype != np.uint8:
            raise InputError(f"pictures: {pictures.dtype}, expected uint8")
        pictures = torch.from_numpy(np.ascontiguousarray(pictures))
    if pictures.dtype != torch.uint8 or pictures.ndim != 4:
        raise InputError(
            f"pictures: {pictures.dtype} {tuple(pictures.shape)}, expected uint8 (N, H, W, 3) "
            "or (N, 3, H, W)"
        )
    if pictures.shape[-1] == 3:
        pictures = pictures.permute(0, 3, 1, 2)
    if pictures.shape[1] != 3:
        raise InputError(f"pictures: {tuple(pictures.shape)}, expected three channels")
    return pictures


def to_unit(pictures: Tensor | np.ndarray) -> Tensor:
    """Float (N, 3, H, W) in [-1, 1] of uint8 pictures, as codecs take them."""
    return planes(pictures).float().div_(127.5).sub_(1.0)


def to_share(pictures: Tensor | np.ndarray) -> Tensor:
    """Float (N, 3, H, W) in [0, 1] of uint8 pictures, as readers and SSIM take them."""
    return planes(pictures).float().div_(255.0)


def to_uint8(pictures: Tensor) -> np.ndarray:
    """(N, H, W, 3) uint8 of float pictures (N, 3, H, W) in [-1, 1]; values outside are clamped.

    The inverse of `to_unit`, bit for bit.
    """
    if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.is_floating_point():
        raise InputError(
            f"pictures: {pictures.dtype} {tuple(pictures.shape)}, expected float (N, 3, H, W)"
        )
    values = (pictures.detach().float().clamp(-1.0, 1.0) + 1.0).mul_(127.5).round_()
    return values.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
