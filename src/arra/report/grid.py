"""The picture `grid.png`: prompts side by side, a row for the real scenes and one for each arm."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from arra.report.format import Pictures

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_CELL = 128  # least side of an enlarged picture, in pixels
_GAP = 12
_LABEL = 116  # width of the column that names the rows
_FONT, _LINE = 14, 18  # size of the type and height of a line
_PAPER, _INK, _WRONG = (255, 255, 255), (32, 33, 36), (178, 58, 30)


def draw_grid(
    pictures: Pictures, labels: Mapping[str, str], across: int = 6, most: int = 12
) -> Image.Image:
    """The first `most` prompts, `across` in a row of the grid, enlarged by whole pixels.

    Pictures that are wider than high (strips of frames) are as many in a row as find room there.
    A picture that the reader did not read as the prompt says has a red line under it.
    """
    rows: list[tuple[str, str, np.ndarray]] = []
    if pictures.real is not None:
        rows.append(("", "real", pictures.real))
    rows += [(name, labels[name], array) for name, array in pictures.arms.items()]
    shown = min(len(pictures.captions), most)
    height = max((array.shape[1] for _, _, array in rows), default=1)
    width = max((array.shape[2] for _, _, array in rows), default=1)
    wide = width > height
    scale = max(1, -(-_CELL // height))
    if wide:
        scale = max(1, min(scale, across * _CELL // width))
        across = across * height // width
    across = max(1, min(across, shown))
    cell, high = width * scale, height * scale

    font = ImageFont.load_default(_FONT)
    captions = [_wrap(caption, font, cell) for caption in pictures.captions[:shown]]
    text = _LINE * max((len(lines) for lines in captions), default=1)
    block = text + len(rows) * (high + _GAP) + 2 * _GAP
    blocks = -(-shown // across)
    whole = _LABEL + across * (cell + _GAP) + _GAP
    canvas = Image.new("RGB", (whole, max(1, blocks) * block + _GAP), _PAPER)
    pen = ImageDraw.Draw(canvas)

    for index in range(shown):
        x = _GAP + _LABEL + (index % across) * (cell + _GAP)
        top = _GAP + (index // across) * block
        _write(pen, captions[index], x, top + text - _LINE * len(captions[index]), font)
        for number, (name, label, array) in enumerate(rows):
            y = top + text + 6 + number * (high + _GAP)
            if index % across == 0:
                lines = textwrap.wrap(label, 14)
                _write(pen, lines, _GAP, y + (high - _LINE * len(lines)) // 2, font)
            small = Image.fromarray(array[index])
            size = (small.width * scale, small.height * scale)
            canvas.paste(small.resize(size, Image.Resampling.NEAREST), (x, y))
            if name in pictures.right and not pictures.right[name][index]:
                pen.rectangle((x, y + high + 2, x + cell - 1, y + high + 5), fill=_WRONG)
    return canvas


def _write(pen: ImageDraw.ImageDraw, lines: list[str], x: int, y: int, font: Font) -> None:
    for number, line in enumerate(lines):
        pen.text((x, y + number * _LINE), line, fill=_INK, font=font)


def _wrap(text: str, font: Font, width: int) -> list[str]:
    """`text` in lines of at most `width` pixels, as far as its words allow."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
