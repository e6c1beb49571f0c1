"""The picture of a layout: which position sees which, coloured by the unit that is seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from arra.experiments.plotting import COLOURS, INK, PALE, canvas, save
from arra.orders.layout import NO_TARGET, Layout


def mask_colours(layout: Layout) -> np.ndarray:
    """(T, T, 3) float in [0, 1]: white where the query (row) does not see the key (column).

    Else the colour of the key's moment; positions that predict nothing, such as text, are pale.
    """
    from matplotlib.colors import to_rgb

    moments = layout.now.unique()
    rank = np.searchsorted(moments.numpy(), layout.now.numpy())
    text = (layout.target == NO_TARGET).numpy()
    names = [
        PALE if quiet else COLOURS[1 + r % (len(COLOURS) - 1)]
        for r, quiet in zip(rank, text, strict=True)
    ]
    keys = np.array([to_rgb(name) for name in names])
    return np.where(layout.sees().numpy()[..., None], keys[None], 1.0)


def plot_layout(layout: Layout, path: str | Path, title: str) -> None:
    """Write the mask as PNG, with lines where the moment changes."""
    figure, axes = canvas(3.8, 3.8)
    axes.imshow(mask_colours(layout), interpolation="nearest")
    for edge in np.flatnonzero(np.diff(layout.now.numpy())) + 0.5:
        axes.axhline(edge, color=INK, lw=0.3)
        axes.axvline(edge, color=INK, lw=0.3)
    axes.set_xlabel("is seen")
    axes.set_ylabel("looks")
    axes.set_title(title, loc="left", fontsize=9)
    save(figure, path)
