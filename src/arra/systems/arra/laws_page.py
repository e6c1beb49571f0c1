"""The table and the plot of the page about laws of the next unit.

python -m arra.systems.arra.laws_page docs/heads.md --record runs/bench/heads
"""

from __future__ import annotations

from pathlib import Path

from arra.experiments.pages import fill_page, take_full
from arra.experiments.plotting import COLOURS, GRID, INK, canvas, save
from arra.experiments.speed.tables import markdown_table
from arra.systems.arra.laws import FILE, PICTURES, Drawing, LawsResult, read_laws

PLOT = "heads.png"


def table(result: LawsResult) -> tuple[list[str], list[list[str]]]:
    """Columns and rows."""
    columns = ["next unit", "parameters", "passes", "head", "GFLOP", "ms, alone", "ms, of 32",
               "right (%)", "Fréchet"]  # fmt: skip
    return columns, [
        [
            label(one),
            f"{one.parameters / 1e6:.2f} M",
            f"{one.passes}",
            f"{one.evaluations}" if one.evaluations else "",
            f"{one.operations / 1e9:.2f}",
            f"{1e3 * one.alone:.1f}",
            f"{1e3 * one.together:.2f}",
            f"{100 * one.right:.0f} ({100 * one.low:.0f} to {100 * one.high:.0f})",
            f"{one.frechet:.2f}",
        ]
        for one in result.drawings
    ]


def label(one: Drawing) -> str:
    """The way, and its pace."""
    pace = ", ".join(f"{count} {name}" for name, count in one.pace.items())
    return f"{one.way}, {pace}" if pace else one.way


def line(result: LawsResult) -> str:
    """On what the numbers stand."""
    return (
        f"{result.machine_class} ({result.machine.get('cpu', 'unknown processor')}), "
        f"{result.threads} threads, {result.date}; {result.steps} training steps, one seed, "
        f"{result.prompts} prompts of held-out combinations, guidance 2; Fréchet distance of other "
        f"real scenes {result.floor:.2f}."
    )


def plot(result: LawsResult, path: Path) -> None:
    """Prompts that are right against seconds and against operations of a picture."""
    figure, axes = canvas(8.4, 3.6, (1, 2))
    ways = list(dict.fromkeys(one.way for one in result.drawings))
    sides = (("ms of a picture drawn alone", lambda d: 1e3 * d.alone),
             ("GFLOP of a picture", lambda d: d.operations / 1e9))  # fmt: skip
    for part, (title, cost) in zip(axes, sides, strict=True):
        for number, way in enumerate(ways):
            mine = sorted((d for d in result.drawings if d.way == way), key=cost)
            part.plot([cost(d) for d in mine], [100 * d.right for d in mine], "o-", ms=4, lw=1.2,
                      color=COLOURS[number % len(COLOURS)], label=way)  # fmt: skip
        part.set_xscale("log")
        part.set_xlabel(title, color=INK)
        part.set_ylabel("prompts right in everything (%)")
        part.set_ylim(0, 100)
        part.grid(color=GRID, lw=0.6)
    axes[0].legend(frameon=False, fontsize=7)
    save(figure, path)


def block(name: str, results: Path, link: str) -> str | None:
    """Plot, line and table; None where nothing has been measured."""
    if not (results / FILE).is_file():
        return None
    result = read_laws(results / FILE)
    return "\n\n".join(
        [
            f"![right prompts against seconds and operations]({link}/{PLOT})",
            line(result),
            markdown_table(*table(result)),
            f"The first prompts by each, drawn at its last pace:\n\n![scenes]({link}/{PICTURES})",
        ]
    )


def record(runs: Path, results: Path) -> None:
    """Take a full result into `results`, with its plot."""
    result = read_laws(runs / FILE)
    take_full(result, runs, results, FILE, lambda to: plot(result, to / PLOT), PICTURES)


if __name__ == "__main__":
    fill_page("laws of the next unit", block, record)
