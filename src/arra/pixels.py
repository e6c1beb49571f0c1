"""Pictures as bytes and as numbers: uint8 (N, H, W, C), and float (N, C, H, W).

C is 3, and 3 T where a picture is a clip of T frames: its channels are those of the first frame,
then those of the second, and so on. A picture is a clip of one frame.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from arra.errors import InputError


def planes(pictures: Tensor | np.ndarray, channels: int = 3) -> Tensor:
    """(N, C, H, W) uint8 of pictures (N, H, W, C) or (N, C, H, W) uint8; a view where possible."""
    if isinstance(pictures, np.ndarray):
        if pictures.dtype != np.uint8:
            raise InputError(f"pictures: {pictures.dtype}, expected uint8")
        pictures = torch.from_numpy(np.ascontiguousarray(pictures))
    if pictures.dtype != torch.uint8 or pictures.ndim != 4:
        raise InputError(
            f"pictures: {pictures.dtype} {tuple(pictures.shape)}, expected uint8 (N, H, W, "
            f"{channels}) or (N, {channels}, H, W)"
        )
    if pictures.shape[-1] == channels:
        pictures = pictures.permute(0, 3, 1, 2)
    if pictures.shape[1] != channels:
        count = "three" if channels == 3 else str(channels)
        raise InputError(f"pictures: {tuple(pictures.shape)}, expected {count} channels")
    return pictures


def to_unit(pictures: Tensor | np.ndarray, channels: int = 3) -> Tensor:
    """Float (N, C, H, W) in [-1, 1] of uint8 pictures, as codecs take them."""
    return planes(pictures, channels).float().div_(127.5).sub_(1.0)


def to_share(pictures: Tensor | np.ndarray) -> Tensor:
    """Float (N, 3, H, W) in [0, 1] of uint8 pictures, as readers and SSIM take them."""
    return planes(pictures).float().div_(255.0)


def to_uint8(pictures: Tensor, channels: int = 3) -> np.ndarray:
    """(N, H, W, C) uint8 of float pictures (N, C, H, W) in [-1, 1]; values outside are clamped.

    The inverse of `to_unit`, bit for bit.
    """
    shape = tuple(pictures.shape)
    if pictures.ndim != 4 or shape[1] != channels or not pictures.is_floating_point():
        raise InputError(
            f"pictures: {pictures.dtype} {shape}, expected float (N, {channels}, H, W)"
        )
    values = (pictures.detach().float().clamp(-1.0, 1.0) + 1.0).mul_(127.5).round_()
    return values.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


# ---- clips -------------------------------------------------------------------------------------


def stacked(clips: np.ndarray) -> np.ndarray:
    """(N, H, W, 3 T) of clips (N, T, H, W, 3)."""
    count, frames, height, width, channels = clips.shape
    return clips.transpose(0, 2, 3, 1, 4).reshape(count, height, width, frames * channels)


def unstacked(pictures: np.ndarray) -> np.ndarray:
    """(N, T, H, W, 3) of clips (N, H, W, 3 T): the inverse of `stacked`; one frame of pictures."""
    count, height, width, channels = pictures.shape
    return pictures.reshape(count, height, width, channels // 3, 3).transpose(0, 3, 1, 2, 4)


def stills(pictures: np.ndarray) -> np.ndarray:
    """(N, H, W, 3): the middle frame (the later of two) of clips (N, H, W, 3 T), and pictures as
    they are: what stands for a clip where single pictures are looked at."""
    middle = pictures.shape[-1] // 6
    return np.ascontiguousarray(pictures[..., 3 * middle : 3 * middle + 3])


def strips(pictures: np.ndarray) -> np.ndarray:
    """(N, H, T W, 3): the frames of clips (N, H, W, 3 T) side by side, and pictures as they are."""
    count, height, width, channels = pictures.shape
    frames = unstacked(pictures).transpose(0, 2, 1, 3, 4)
    return frames.reshape(count, height, width * (channels // 3), 3)
