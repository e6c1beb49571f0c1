"""The pictures and the table of the page: digits by teachers and by their students.

`python -m arra.systems.distilled_decoding.pictures docs/distilled-decoding` measures them, in some
minutes, and writes steps.json, steps.png and digits.png there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from arra.experiments.plotting import COLOURS, GRID, INK, PALE, canvas, save, sheet
from arra.experiments.speed.tables import markdown_table
from arra.systems.distilled_decoding.recipe import KINDS, DigitRecipe
from arra.systems.distilled_decoding.steps import FILE, INDEPENDENT, measure, write

PLOT, SHEET = "steps.png", "digits.png"
LABELS = {"grid": "16 squares in turn", "scales": "103 pixels in 5 scales"}
MARKS = {"teacher": "s", "student": "o", "helped": "D", INDEPENDENT: "x"}
"""Of points in the plot."""


def table(result: dict[str, Any]) -> str:
    """Markdown: quality and cost of every way, for both teachers."""
    columns = ["", "passes", "Fréchet", "of each digit", "digit right (%)", "teacher's codes (%)",
               "ms, alone", "ms, of 100"]  # fmt: skip
    rows = []
    for kind in KINDS:
        for name, way in result["kinds"][kind].items():
            free = name == INDEPENDENT
            rows.append(
                [
                    f"{LABELS[kind]}: {name}",
                    "–" if free else str(way["passes"]),
                    f"{way['frechet']:.2f}",
                    f"{way['class frechet']:.2f}",
                    f"{100 * way['accuracy']:.1f}",
                    "–" if name.startswith("teacher") else f"{100 * way['teachers_codes']:.1f}",
                    "–" if free else f"{1e3 * way['alone']:.2f}",
                    "–" if free else f"{1e3 * way['together']:.3f}",
                ]
            )
    return markdown_table(columns, rows)


def plot(result: dict[str, Any], path: Path) -> None:
    """Fréchet distance against passes, and against the time of a picture drawn alone."""
    figure, axes = canvas(8.4, 3.4, (1, 2))
    for kind, colour in zip(KINDS, COLOURS[1:], strict=False):
        ways = result["kinds"][kind]
        for side, read in ((0, lambda w: w["passes"]), (1, lambda w: 1e3 * w["alone"])):
            students = [w for name, w in ways.items() if _role(name) == "student"]
            line = [(read(w), w["frechet"]) for w in students]
            axes[side].plot(*zip(*line, strict=True), color=colour, lw=1, alpha=0.6)
            for name, way in ways.items():
                role = _role(name)
                if role == INDEPENDENT:
                    axes[side].axhline(way["frechet"], color=colour, lw=0.8, ls=":")
                    continue
                axes[side].plot(
                    read(way), way["frechet"], MARKS[role], color=colour, ms=6, mfc="white", mew=1.4
                )
        axes[0].plot([], [], color=colour, label=LABELS[kind])
    for role, label in (
        ("teacher", "teacher"),
        ("student", "student, 1, 2 and 4 steps"),
        ("helped", "student, its teacher between two steps"),
    ):
        axes[0].plot([], [], MARKS[role], color=INK, mfc="white", mew=1.4, label=label)
    axes[0].plot([], [], color=PALE, lw=0.8, ls=":", label="codes drawn independently")
    axes[0].plot([], [], color=INK, lw=0.8, ls="--", label="real digits")
    for side, label in ((0, "passes of a network for a picture"), (1, "ms, one picture alone")):
        axes[side].axhline(result["real"]["frechet"], color=INK, lw=0.8, ls="--")
        axes[side].set_xscale("log", base=2)
        axes[side].xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes[side].set_yscale("log")
        axes[side].set_xlabel(label)
        axes[side].grid(color=GRID, lw=0.6)
    axes[0].set_ylabel("Fréchet distance")
    figure.legend(fontsize=7.5, loc="outside lower center", ncols=3, frameon=False)
    save(figure, path)


def _role(name: str) -> str:
    """What kind of way it is: a key of `MARKS`."""
    return "helped" if "teacher draws" in name else name.split(",")[0]


def picture(result: dict[str, Any], folder: Path, path: Path) -> None:
    """Two of each digit by every way that `measure` drew in `folder`, from the same noise."""
    rows: list[tuple[str, np.ndarray]] = []
    for kind in KINDS:
        drawn = np.load(folder / kind / "drawn.npy")
        for name, pictures in zip(result["kinds"][kind], drawn, strict=True):
            rows.append((f"{kind}\n{name}".replace(", teacher", ",\nteacher"), pictures))
    sheet(rows, path)


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
    print(table(draw(options.work, options.out)))


if __name__ == "__main__":
    main()
