"""The pictures and the table of the page: digits by teachers and by their students.

`python -m arra.systems.distilled_decoding.pictures docs/distilled-decoding` measures them, in some
minutes, and writes steps.json, steps.png and digits.png there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arra.experiments.plotting import COLOURS, INK, PALE, canvas, save, sheet
from arra.experiments.plotting import GRID as GRID_LINES
from arra.experiments.speed.tables import markdown_table
from arra.systems.distilled_decoding.recipe import GRID, KINDS, SCALES, DigitRecipe
from arra.systems.distilled_decoding.steps import (
    FILE,
    HELPED,
    INDEPENDENT,
    SAME_NOISE,
    measure,
    write,
)

PLOT, SHEET = "steps.png", "digits.png"
LABELS = {GRID: "16 squares in turn", SCALES: "103 pixels in 5 scales"}
_MARKS = {"teacher": "s", "student": "o", HELPED: "D"}
"""Of points in the plot."""
QUALITY = "class frechet"


def table(result: dict[str, Any]) -> str:
    """Markdown: quality and cost of every way, for both teachers."""
    columns = ["", "passes", "Fréchet", "of each digit", "digit right (%)", "teacher's codes (%)",
               "ms, alone", "ms, of 100"]  # fmt: skip
    rows = []
    for kind in KINDS:
        real = result["kinds"][kind]["real"]
        found = [f"**{LABELS[kind]}**: real digits", "", f"{real['frechet']:.2f}", "",
                 f"{100 * real['accuracy']:.1f}", "", "", ""]  # fmt: skip
        rows.append(found)
        rows += [_row(name, way) for name, way in result["kinds"][kind]["ways"].items()]
    return markdown_table(columns, rows)


def _row(name: str, way: dict[str, float]) -> list[str]:
    told = name != "teacher"  # whose noise is another
    cost = [f"{1e3 * way['alone']:.1f}", f"{1e3 * way['together']:.2f}"]
    return [
        name,
        f"{way['passes']}" if way["passes"] else "",
        f"{way['frechet']:.2f}",
        f"{way['class frechet']:.2f}",
        f"{100 * way['accuracy']:.1f}",
        f"{100 * way['teachers_codes']:.1f}" if told else "",
        *(cost if way["passes"] else ("", "")),
    ]


def plot(result: dict[str, Any], path: Path) -> None:
    """Fréchet distances of single digits against passes, and against time, for both teachers."""
    figure, axes = canvas(8.4, 3.6, (1, 2))
    sides = (("passes of a network for a picture", "passes", 1.0), ("ms of a picture drawn alone",
             "alone", 1e3))  # fmt: skip
    for place, (label, cost, scale) in zip(axes, sides, strict=True):
        for kind, colour in zip(KINDS, COLOURS[1:], strict=False):
            ways = result["kinds"][kind]["ways"]
            points = {n: (scale * w[cost], w[QUALITY]) for n, w in ways.items() if n != SAME_NOISE}
            place.axhline(points.pop(INDEPENDENT)[1], color=colour, lw=0.9, ls=":")
            line = [point for name, point in points.items() if _role(name) == "student"]
            place.plot(*zip(*line, strict=True), color=colour, lw=1, alpha=0.6)
            for name, point in points.items():
                place.plot(*point, _MARKS[_role(name)], color=colour, ms=6, mfc="white", mew=1.4)
        place.set_xscale("log", base=2)
        place.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        place.set_ylim(0, None)
        place.set_xlabel(label)
        place.grid(color=GRID_LINES, lw=0.6)
    axes[0].set_ylabel("Fréchet distance, mean of the digits'")
    _legend(figure, axes[0])
    save(figure, path)


def _legend(figure: Any, axes: Any) -> None:
    """What colours, marks and lines mean."""
    for kind, colour in zip(KINDS, COLOURS[1:], strict=False):
        axes.plot([], [], color=colour, label=LABELS[kind])
    for role, label in (
        ("teacher", "teacher"),
        ("student", "student, 1, 2 and 4 steps"),
        (HELPED, "student, its teacher between two steps"),
    ):
        axes.plot([], [], _MARKS[role], color=INK, mfc="white", mew=1.4, label=label)
    axes.plot([], [], color=PALE, lw=0.9, ls=":", label="codes drawn independently")
    figure.legend(fontsize=7.5, loc="outside lower center", ncols=3, frameon=False)


def _role(name: str) -> str:
    """A key of `_MARKS`."""
    return name if name == HELPED else name.split(",")[0]


def picture(result: dict[str, Any], folder: Path, path: Path) -> None:
    """A digit of each by the ways that share their noise, which `measure` drew in `folder`."""
    rows: list[tuple[str, np.ndarray]] = []
    for kind in KINDS:
        drawn = dict(
            zip(result["kinds"][kind]["ways"], np.load(folder / f"{kind}.npy"), strict=True)
        )
        del drawn["teacher"]
        rows += [(f"{kind}: {name}", pictures) for name, pictures in drawn.items()]
    sheet(rows, path, width=5.6)


def draw(folder: Path, out: Path, recipe: DigitRecipe | None = None) -> dict[str, Any]:
    """Measure, going on in `folder`, and write everything to `out`; the result."""
    result = measure(recipe or DigitRecipe(), folder)
    out.mkdir(parents=True, exist_ok=True)
    write(result, out / FILE)
    plot(result, out / PLOT)
    picture(result, folder, out / SHEET)
    return result


def main() -> None:
    """Measure and draw; print the table."""
    parser = argparse.ArgumentParser(description="Draw the pictures of the page.")
    parser.add_argument("out", type=Path, help="where they go")
    parser.add_argument("--work", type=Path, default=Path("runs/distilled-decoding"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # of which times are told
    print(table(draw(options.work, options.out)))


if __name__ == "__main__":
    main()
