"""Pictures in bytes, whole and broken, for the tests that read them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (6, 9), dtype=np.uint16)
GREY16[0, :2] = 0, 65535


def encoded(pixels: np.ndarray | Image.Image, format: str = "PNG", **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, depth: int, colour: int, raw: bytes, extra: bytes = b"", packed=None
) -> bytes:
    """A PNG written by hand, for headers and depths that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress(raw) if packed is None else packed
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


PNG, JPEG = encoded(RGB), encoded(np.kron(RGB, np.ones((4, 4, 1), np.uint8)), "JPEG")
FRAMES = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
GIF = encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:])
FLOAT = RNG.random((6, 9), dtype=np.float32)
NAN = np.where(np.arange(9) == 3, np.float32("nan"), FLOAT)
NOT_A_PICTURE = "not a picture in a format that is read, or its header is damaged"
DAMAGED = "the picture is cut off or damaged"
PIXELS = "the picture has more pixels than allowed"

# Bytes that are no usable picture, and the reason that has to be given.
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "words": (b"hello, I am a text", NOT_A_PICTURE),
    "page": (b"<!DOCTYPE html><title>404</title>", NOT_A_PICTURE),
    "drawing": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', NOT_A_PICTURE),
    "postscript": (encoded(RGB, "EPS"), NOT_A_PICTURE),
    "cut_png": (PNG[: len(PNG) // 2], DAMAGED),
    "cut_jpeg": (JPEG[:-60], DAMAGED),
    "cut_gif": (encoded(RGB, "GIF")[:-20], DAMAGED),
    "cut_tiff": (encoded(RGB, "TIFF")[:-20], DAMAGED),
    "cut_webp": (encoded(RGB, "WEBP", lossless=True)[:-20], "its header is damaged"),
    "cut_header": (PNG[:20], "its header is damaged"),
    "bad_stream": (png(9, 6, 8, 2, b"", packed=b"\x78\x9c\xff\xff\xff\xff"), DAMAGED),
    "bomb": (png(9000, 9000, 8, 2, b"\0" * 99), PIXELS),
    "great_bomb": (png(200_000, 200_000, 8, 2, b"\0" * 99), PIXELS),
    "float_255": (
        encoded(FLOAT * 255, "TIFF"),
        "its floating-point brightness is not from 0 to 1",
    ),
    "float_nan": (encoded(NAN, "TIFF"), "its floating-point brightness is not from 0 to 1"),
    "int_32": (
        encoded(GREY16.astype(np.int32), "TIFF"),
        "whole numbers of 32 bits have no agreed brightness",
    ),
}
