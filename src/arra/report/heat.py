"""Tables of numbers as squares of one hue, as SVG text that the page's style sheet colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise

import numpy as np

_WIDTH, _LEFT, _BOTTOM = 440, 48, 40
_MOST = 64  # columns; more are averaged side by side


def heat_map(
    values: np.ndarray, rows: Sequence[str], top: float, title: str, x_label: str, y_label: str
) -> str:
    """An SVG element of (R, C) values, the first row at the bottom; 0 is pale, `top` is full.

    The page styles the classes `heat` and `tick`. Values that are not finite are left out.
    """
    shown = _binned(values)
    height = min(28.0, max(10.0, 260.0 / max(1, len(shown))))
    width = (_WIDTH - _LEFT - 8) / shown.shape[1]
    bottom = 8 + height * len(shown)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {bottom + _BOTTOM:.0f}" role="img" '
        f'aria-label="{escape(title, quote=True)}">'
    ]
    for row, line in enumerate(shown):
        y = bottom - (row + 1) * height
        parts.append(
            f'<text class="tick" x="{_LEFT - 8}" y="{y + height / 2 + 4:.1f}" '
            f'text-anchor="end">{escape(rows[row])}</text>'
        )
        for column, value in enumerate(line):
            parts.append(_square(float(value), top, _LEFT + column * width, y, width, height))
    last = values.shape[1]
    for x, text, anchor in (
        (_LEFT, "1", "start"),
        (_WIDTH - 8, str(last), "end"),
        ((_LEFT + _WIDTH - 8) / 2, x_label, "middle"),
    ):
        parts.append(
            f'<text class="tick" x="{x}" y="{bottom + 20:.1f}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )
    middle = (8 + bottom) / 2
    parts.append(
        f'<text class="tick" x="12" y="{middle:.1f}" text-anchor="middle" '
        f'transform="rotate(-90 12 {middle:.1f})">{escape(y_label)}</text></svg>'
    )
    return "".join(parts)


def heat_grid(values: np.ndarray, top: float, title: str) -> str:
    """An SVG element of (rows, columns) values as they lie in a picture."""
    rows, columns = values.shape
    size = 100.0 / max(rows, columns)
    squares = [
        _square(float(values[r, c]), top, c * size, r * size, size, size)
        for r in range(rows)
        for c in range(columns)
    ]
    return (
        f'<svg viewBox="0 0 {columns * size:.1f} {rows * size:.1f}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{"".join(squares)}</svg>'
    )


def _square(value: float, top: float, x: float, y: float, width: float, height: float) -> str:
    if not math.isfinite(value):
        return ""
    strength = 0.05 + 0.95 * min(1.0, max(0.0, value / top)) if top > 0 else 0.05
    return (
        f'<rect class="heat" x="{x:.2f}" y="{y:.2f}" width="{0.94 * width:.2f}" '
        f'height="{0.94 * height:.2f}" fill-opacity="{strength:.3f}">'
        f"<title>{value:.3f}</title></rect>"
    )


def _binned(values: np.ndarray) -> np.ndarray:
    """(R, C) with neighbouring columns averaged, so that at most 64 are left."""
    if values.shape[1] <= _MOST:
        return values
    edges = np.linspace(0, values.shape[1], _MOST + 1).round().astype(int)
    columns = []
    for a, b in pairwise(edges):
        part, fine = values[:, a:b], np.isfinite(values[:, a:b])
        total = np.where(fine, part, 0.0).sum(axis=1)
        count = fine.sum(axis=1)
        columns.append(np.where(count > 0, total / np.maximum(count, 1), np.nan))
    return np.stack(columns, axis=1)
