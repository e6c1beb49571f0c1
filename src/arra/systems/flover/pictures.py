"""The picture of the page: which request is in which slot, pass after pass, in three ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from arra.experiments.plotting import canvas, save
from arra.systems.flover.claim import served
from arra.systems.flover.recipe import COMPACTED, GAPS, WINDOW, Recipe
from arra.systems.flover.simulator import Arrival, arrivals, stepper_of

TITLES = {
    WINDOW: "batches of a window; white is computed for nobody",
    GAPS: "fused, gaps computed",
    COMPACTED: "fused, gaps closed",
}


def draw_slots(path: str | Path, recipe: Recipe, seed: int = 0) -> None:
    """Write a PNG of slots (down) and passes (across), a colour for each request."""
    stepper, wanted = stepper_of(recipe, recipe.size), arrivals(recipe, seed)
    found = {arm: served(arm, recipe, stepper, wanted, None).occupancy for arm in TITLES}
    longest = max(map(len, found.values()))
    figure, axes = canvas(8.5, 5.4, (len(found), 1))
    for axis, (arm, occupancy) in zip(axes, found.items(), strict=True):
        colours = _colours(occupancy, recipe.slots, longest, wanted)
        axis.imshow(colours, aspect="auto", interpolation="nearest")
        axis.set_title(f"{TITLES[arm]}: {len(occupancy)} passes", fontsize=9, loc="left")
        axis.set_ylabel("slot")
    axes[-1].set_xlabel("pass")
    save(figure, path)


def _colours(
    occupancy: list[dict[int, int]], slots: int, passes: int, wanted: list[Arrival]
) -> np.ndarray:
    """(slots, passes, 3) of 0 to 1: grey where nothing is computed, white for nobody."""
    import matplotlib

    palette = matplotlib.colormaps["tab20"]
    found = np.full((slots, passes, 3), 0.92)
    drawn = [0] * len(wanted)
    for at, here in enumerate(occupancy):
        if here:
            found[min(here) : max(here) + 1, at] = 1.0
        for slot, number in here.items():
            if drawn[number] < wanted[number].length:
                found[slot, at] = palette(number % 20)[:3]
            drawn[number] += 1
    return found
