"""The filters with which pictures are resized: Pillow's, by name."""

from __future__ import annotations

from typing import Literal

from PIL import Image

from arra.errors import InputError

Resample = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


def resampling(name: str, where: str) -> Image.Resampling:
    """Pillow's filter of this name; `InputError` that begins with `where` if there is none."""
    try:
        return Image.Resampling[name.upper()]
    except KeyError:
        known = ", ".join(filter_.lower() for filter_ in Image.Resampling.__members__)
        raise InputError(f"{where}: {name!r}, expected one of {known}") from None
