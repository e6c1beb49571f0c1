"""The pictures of the page, of what the claim left in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from arra.experiments.once import RECORD
from arra.experiments.plotting import COLOURS, PALE, canvas, save, sheet
from arra.files import read_json
from arra.systems.lantern.arms import file_of
from arra.systems.lantern.claim import ALL
from arra.systems.lantern.recipe import (
    CHAIN_NEAREST,
    CHAIN_RATIO,
    CHAIN_STRICT,
    NEAREST,
    PLAIN,
    RANDOM,
    STRICT,
    Recipe,
)
from arra.systems.seeds import Result, at

SHOWN = {
    PLAIN: "plain",
    STRICT: "lossless",
    NEAREST: "nearest,\n$\\delta$ = 0.2",
    "nearest, 0.4": "nearest,\n$\\delta$ = 0.4",
    RANDOM: "random,\n$\\delta$ = 0.2",
    "random, 0.4": "random,\n$\\delta$ = 0.4",
}
"""Rows of the sheet."""


def results_of(folder: Path) -> list[Result]:
    """What the claim measured in this folder (`arra reproduce lantern --out`), seed by seed."""
    found = sorted(folder.glob(f"{ALL}-*/{RECORD}"))
    return [read_json(path)["report"] for path in found]


def plot(folder: Path, path: str | Path, recipe: Recipe | None = None) -> None:
    """Write a PNG: what borrowing costs at how many codes a pass, means over seeds."""
    results, recipe = results_of(folder), recipe or Recipe()
    figure, axes = canvas(7.4, 3.1, (1, 2))
    columns = {"variation": "total variation from the model's law", "frechet": "Fréchet distance"}
    for axis, (key, label) in zip(axes, columns.items(), strict=True):
        for colour, lenders in zip(COLOURS[1:], (NEAREST, RANDOM), strict=False):
            names = swept(recipe, lenders)
            x, y = _means(results, names, "units per pass"), _means(results, names, key)
            axis.plot(x, y, "o-", color=colour, ms=4, lw=1.2, label=f"{lenders} lenders")
        for marker, name in (("v", CHAIN_STRICT), ("^", CHAIN_NEAREST), ("s", CHAIN_RATIO)):
            x, y = (_means(results, [name], k) for k in ("units per pass", key))
            axis.plot(x, y, marker, color=COLOURS[3], ms=5, label=name)
        if key == "frechet":
            axis.axhline(_means(results, [PLAIN], key)[0], color=PALE, lw=0.8, ls=":")
        axis.set_xlabel("codes a pass of the model")
        axis.set_ylabel(label)
    axes[0].legend(frameon=False, fontsize=8)
    save(figure, path)


def swept(recipe: Recipe, lenders: str) -> list[str]:
    """Arms with these lenders, from lossless to the largest bound."""
    arms = [arm for arm in recipe.arms if arm.tree == "dynamic" and arm.lenders == lenders]
    return [STRICT, *(arm.name for arm in sorted(arms, key=lambda arm: arm.delta))]


def _means(results: Sequence[Result], names: Sequence[str], key: str) -> list[float]:
    return [float(np.mean([at(name, key)(result) for result in results])) for name in names]


def digits_of(folder: Path, path: str | Path, seed: int = 0, columns: int = 20) -> None:
    """Write the sheet as PNG: the same digits in several ways."""
    rows = [
        (shown, np.load(folder / f"{ALL}-{seed}" / file_of(name))[:columns])
        for name, shown in SHOWN.items()
    ]
    sheet(rows, path)
