"""PNG files that say what they are: prompt, seed, settings and checkpoint in text chunks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo


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
