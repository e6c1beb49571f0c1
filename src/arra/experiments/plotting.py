"""How plots of experiments look: colours, quiet axes, and PNG files written in one step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arra.files import atomic_file

INK, PALE, GRID = "#1f2328", "#8b949e", "#d8dee4"
COLOURS = ("#1f2328", "#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#9a6700")
_RULES: Any = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def canvas(width: float, height: float, grid: tuple[int, int] | None = None) -> tuple[Any, Any]:
    """A figure of so many inches with its axes; with `grid` (rows, columns) a list of axes."""
    # the figure is made without pyplot, which would keep it and choose a window system
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RULES):
        figure = Figure(figsize=(width, height), layout="constrained")
        if grid is None:
            return figure, figure.add_subplot()
        return figure, list(figure.subplots(*grid, squeeze=False).flat)


def save(figure: Any, path: str | Path) -> None:
    """Write the figure as PNG, in one step."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def sheet(
    rows: Sequence[tuple[str, np.ndarray]],
    path: str | Path,
    titles: Sequence[str] = (),
    width: float = 7.2,
) -> None:
    """Write rows of pictures, as many in each, with their names, as PNG; columns with `titles`."""
    across = len(rows[0][1])
    high, wide = rows[0][1][0].shape[:2]
    row = max(0.42, width / (across + 1) * high / wide)
    lines = max((title.count("\n") + 1 for title in titles), default=0)
    figure, axes = canvas(width, row * len(rows) + 0.12 * lines, (len(rows), across))
    for number, (name, pictures) in enumerate(rows):
        line = axes[number * across : (number + 1) * across]
        for place, picture in zip(line, pictures, strict=True):
            place.imshow(picture, interpolation="nearest")
            place.set_xticks([])
            place.set_yticks([])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
    for place, title in zip(axes, titles, strict=False):
        place.set_title(title, fontsize=6)
    save(figure, path)
