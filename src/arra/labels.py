"""PNG files that say what they are: pictures, and clips as animated PNGs, with their labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo

from arra.errors import InputError
from arra.files import atomic_file
from arra.pixels import stacked, unstacked

_FRAMES, _RATE = "frames", "frames a second"
_ERRORS = (OSError, SyntaxError, UnidentifiedImageError, ValueError)


def labelled_png(picture: np.ndarray, label: Mapping[str, Any], rate: float = 1.0) -> bytes:
    """A PNG file of a picture (H, W, 3) uint8, or of a clip (H, W, 3 T) that plays at `rate` frames
    a second, with a text chunk for each entry of `label`.

    Strings stand as they are, everything else as JSON. Lossless; what shows no animations shows the
    first frame.
    """
    frames = [Image.fromarray(frame) for frame in unstacked(picture[None])[0]]
    info, file = PngInfo(), BytesIO()
    for name, value in {**label, "Software": "arra"}.items():
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        (info.add_text if text.isascii() else info.add_itxt)(name, text)
    if len(frames) == 1:
        frames[0].save(file, format="PNG", pnginfo=info)
        return file.getvalue()
    info.add_text(_FRAMES, str(len(frames)))
    info.add_text(_RATE, repr(rate))
    frames[0].save(
        file,
        format="PNG",
        pnginfo=info,
        save_all=True,
        append_images=frames[1:],
        duration=_milliseconds(rate),
        loop=0,
    )
    return file.getvalue()


def write_png(path: Path, picture: np.ndarray, label: Mapping[str, Any], rate: float) -> None:
    """Write `labelled_png` to a file, in one step."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(labelled_png(picture, label, rate))


def read_png(path: Path) -> np.ndarray:
    """What `write_png` wrote: (H, W, 3) or (H, W, 3 T) uint8, bit for bit.

    `InputError` where the file is damaged, or not a PNG.
    """
    try:
        with closing(_opened(path)) as image:
            count, rate = int(image.text.get(_FRAMES, 1)), float(image.text.get(_RATE, 1.0))
            frames: list[np.ndarray] = []
            for number in range(getattr(image, "n_frames", 1)):
                image.seek(number)
                # frames that are equal are one frame of the file, which stands longer
                shown = round(float(image.info.get("duration", 0)) / _milliseconds(rate))
                frames += [np.asarray(image.convert("RGB"))] * max(1, shown)
    except _ERRORS as error:
        raise InputError(f"{path}: cannot be read as a PNG ({error})") from error
    frames += frames[-1:] * (count - len(frames))
    return stacked(np.stack(frames[:count])[None])[0]


def label_of(path: Path) -> dict[str, str]:
    """The text chunks of a PNG; none where it is no PNG, damaged or not there.

    Files are written whole, so that only the label needs to be read to know them.
    """
    try:
        with closing(_opened(path)) as image:
            return dict(image.text)
    except _ERRORS:
        return {}


def _opened(path: Path) -> PngImageFile:
    image = Image.open(path, formats=["PNG"])
    assert isinstance(image, PngImageFile)
    return image


def _milliseconds(rate: float) -> int:
    return max(1, round(1000 / rate))
