"""PNG files that say what they are: prompt, seed, settings and checkpoint in text chunks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from arra.errors import InputError


def labelled_png(picture: np.ndarray, label: Mapping[str, Any]) -> bytes:
    """A PNG file of (H, W, 3) uint8 with a text chunk for each entry of `label`.

    Strings stand as they are, everything else as JSON.
    """
    chunks = PngInfo()
    for name, value in {**label, "Software": "arra"}.items():
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        if text.isascii():
            chunks.add_text(name, text)
        else:
            chunks.add_itxt(name, text)
    file = BytesIO()
    Image.fromarray(picture).save(file, format="PNG", pnginfo=chunks)
    return file.getvalue()


def read_label(file: Path | bytes, whole: bool = False) -> dict[str, str]:
    """The text chunks of a PNG file that `labelled_png` made; `InputError` where it is no PNG.

    Its pixels are decoded only if `whole`, which refuses files that are cut off.
    """
    name = str(file) if isinstance(file, Path) else "the file"
    try:
        with Image.open(BytesIO(file) if isinstance(file, bytes) else file, formats=["PNG"]) as png:
            if whole:
                png.load()
            return {str(key): text for key, text in png.info.items() if isinstance(text, str)}
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{name}: no PNG file that can be read") from error
