"""From the bytes of one picture file to upright 8-bit RGB, and from there to a size.

Pillow decodes; this module decides what Pillow leaves open (16 bits, floats, transparency, frames,
orientation) and turns everything that can go wrong into a `BadRow` with a plain reason. Only raster
formats whose decoders stay in the process are tried, and no setting of Pillow is changed.
"""

from __future__ import annotations

import io
import os
import struct
from typing import Any, Literal, get_args

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from arra.data.rows import BadRow, Limits
from arra.errors import InputError

Fit = Literal["crop", "pad", "stretch"]
"""How a picture comes to a size of another shape: see `fit`."""

# File name endings that count as pictures, and the format that each promises.
SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
    ".jp2": "JPEG2000",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pbm": "PPM",
    ".pnm": "PPM",
    ".pfm": "PPM",
}
FORMATS = tuple(dict.fromkeys(SUFFIXES.values()))

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
# What Pillow's decoders raise on damaged input. MemoryError is among them because a damaged header
# can ask for any amount; the pixel limit has already let only modest pictures through.
_DECODER_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    IndexError,
    KeyError,
    AttributeError,
    OverflowError,
    ZeroDivisionError,
    EOFError,
    RuntimeError,
    MemoryError,
    AssertionError,
    struct.error,
    Image.DecompressionBombError,
    Warning,  # where the caller has turned warnings into errors
)


def decode(
    data: bytes, name: str, limits: Limits | None = None
) -> tuple[Image.Image, tuple[str, ...]]:
    """The picture in `data` as upright 8-bit RGB, and notes on what was decided.

    `name` stands in errors; its ending, if it has one, is compared with the content.

    Raises:
        BadRow: the bytes are not a picture that can be used; the reason says why.
    """
    limits = limits or Limits()
    if not data:
        raise BadRow(name, "the file is empty")
    if len(data) > limits.max_bytes:
        raise BadRow(
            name, "the file is larger than allowed", f"{len(data)} > {limits.max_bytes} bytes"
        )
    notes: list[str] = []
    with _opened(data, name) as image:
        _check_size(image.size, name, limits)
        _check_format(image, name, notes)
        _check_frames(image, name, limits, notes)
        try:
            if limits.reduced and image.format == "JPEG":
                image.draft(None, (limits.reduced, limits.reduced))
            image.load()
        except _DECODER_ERRORS as error:
            reason = "the picture is cut off or damaged"
            raise BadRow(name, reason, _words(error)) from error
        turn = _orientation(image, notes)
        try:
            rgb = _to_rgb(image, name, limits.background)
        except _DECODER_ERRORS as error:
            raise BadRow(name, "its colours cannot be converted", _words(error)) from error
    if turn is not None:
        rgb = rgb.transpose(turn)
    # Nothing of the file's metadata may travel on: an orientation must not be applied twice.
    rgb.info.clear()
    return rgb, tuple(notes)


def _words(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:200]


def _opened(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadRow(name, "the picture has more pixels than allowed", _words(error)) from error
    except UnidentifiedImageError as error:
        reason = "not a picture in a format that is read, or its header is damaged"
        raise BadRow(name, reason, f"it begins with {data[:12]!r}") from error
    except _DECODER_ERRORS as error:
        raise BadRow(name, "its header is damaged", _words(error)) from error


def _check_size(size: tuple[int, int], name: str, limits: Limits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise BadRow(
            name,
            "the picture has more pixels than allowed",
            f"{width} x {height} > {limits.max_pixels}",
        )
    if min(size) < limits.min_side:
        raise BadRow(
            name,
            "the picture is smaller than allowed",
            f"{width} x {height}, shortest side {limits.min_side}",
        )


def _check_format(image: Image.Image, name: str, notes: list[str]) -> None:
    promised = SUFFIXES.get(os.path.splitext(name)[1].lower())
    # Phones write MPO, a JPEG followed by further JPEGs, under the ending of JPEG.
    found = "JPEG" if image.format == "MPO" else image.format
    if promised and found != promised:
        notes.append(f"the content is {found}, the name says {promised}")


def _check_frames(image: Image.Image, name: str, limits: Limits, notes: list[str]) -> None:
    if image.format == "MPO":
        return
    try:
        several = bool(getattr(image, "is_animated", False))
        image.seek(0)
    except _DECODER_ERRORS as error:
        raise BadRow(name, "the picture is cut off or damaged", _words(error)) from error
    if several and limits.animation == "refuse":
        raise BadRow(name, "the picture has several frames or pages")
    if several:
        notes.append("only the first of several frames or pages is used")


def _orientation(image: Image.Image, notes: list[str]) -> Image.Transpose | None:
    """How to turn the loaded picture upright. (Pillow itself turns a TIFF when loading it.)"""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        if value not in range(1, 9):
            notes.append("the EXIF orientation is not one; the picture is used as stored")
            return None
        return _TURNS.get(value)
    except _DECODER_ERRORS:
        notes.append("the EXIF data is damaged; the picture is used as stored")
        return None


def _to_rgb(image: Image.Image, name: str, background: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        grey, alpha = _deep_grey(image, name)
        image = Image.fromarray(grey)
        if alpha is not None:
            image.putalpha(Image.fromarray(alpha))
    elif image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    under = Image.new("RGBA", rgba.size, (*background, 255))
    return Image.alpha_composite(under, rgba).convert("RGB")


def _deep_grey(image: Image.Image, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W) uint8 grey, and (H, W) uint8 alpha or None, of a picture with more than 8 bits."""
    values = np.asarray(image)
    if image.mode == "F":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0.0 and high <= 1.0):  # also false where a value is NaN
            reason = "its floating-point brightness is not from 0 to 1"
            raise BadRow(name, reason, f"from {low:g} to {high:g}")
        return np.rint(values * 255.0).astype(np.uint8), None
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        # Pillow scales PNG and PPM to 16 bits; elsewhere nothing says where white is.
        raise BadRow(name, "whole numbers of 32 bits have no agreed brightness")
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_TIFF_BITS, (16,))
    white = 2 ** (bits[0] if isinstance(bits, tuple) else bits) - 1
    wide = np.clip(values.astype(np.int64), 0, white)
    if tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:
        wide = white - wide
    grey = ((wide * 255 + white // 2) // white).astype(np.uint8)
    clear = image.info.get("transparency")
    alpha = np.where(values == clear, 0, 255).astype(np.uint8) if isinstance(clear, int) else None
    return grey, alpha


def pixels_of(
    row: Any, size: int, how: Fit = "crop", resample: Image.Resampling = Image.Resampling.LANCZOS
) -> np.ndarray:
    """(size, size, 3 T) uint8 of a row: of its T frames, or of its one picture, fitted alike."""
    frames = getattr(row, "frames", None) or (row.image,)
    return np.concatenate([_pixels(frame, size, how, resample) for frame in frames], axis=-1)


def _pixels(image: Image.Image, size: int, how: Fit, resample: Image.Resampling) -> np.ndarray:
    image = image if image.mode == "RGB" else image.convert("RGB")
    return np.asarray(image if image.size == (size, size) else fit(image, size, how, resample))


def fit(
    image: Image.Image,
    size: int | tuple[int, int],
    how: Fit = "crop",
    resample: Image.Resampling = Image.Resampling.LANCZOS,
    background: tuple[int, int, int] = (255, 255, 255),
) -> Image.Image:
    """An RGB picture brought to `size` pixels (one side of a square, or width and height).

    "crop" keeps the shape and cuts the centre out, "pad" keeps the shape and everything in the
    picture and fills the rest with `background`, "stretch" keeps neither. Every filter but NEAREST
    is antialiased when it shrinks.
    """
    width, height = (size, size) if isinstance(size, int) else size
    if width < 1 or height < 1:
        raise InputError(f"fit: size {width} x {height}, expected 1 pixel or more each way")
    if how not in get_args(Fit):
        raise InputError(f"fit: how={how!r}, expected one of {', '.join(get_args(Fit))}")
    if image.size == (width, height):
        return image.copy()
    if how == "stretch":
        return image.resize((width, height), resample)
    across, down = width / image.width, height / image.height
    if how == "crop":
        scale = max(across, down)
        part_width, part_height = width / scale, height / scale
        left, top = (image.width - part_width) / 2, (image.height - part_height) / 2
        # Rounding may put an edge a hair outside the picture, which Pillow refuses.
        box = (
            max(0.0, left),
            max(0.0, top),
            min(float(image.width), left + part_width),
            min(float(image.height), top + part_height),
        )
        return image.resize((width, height), resample, box=box)
    scale = min(across, down)
    inner = (
        min(width, max(1, round(image.width * scale))),
        min(height, max(1, round(image.height * scale))),
    )
    canvas = Image.new("RGB", (width, height), background)
    canvas.paste(image.resize(inner, resample), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas
