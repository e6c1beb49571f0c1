"""How plots of experiments look: colours, quiet axes, and PNG files written in one step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
