"""The tables of the page about speed, made from the results of benches that are kept beside it.

    python -m arra.experiments.speed.page docs/speed.md --record runs/bench

takes what `arra bench` measured into the folder `docs/speed` and writes the tables of the page
again; without `--record` it only writes the tables. What stands between the marks
`<!-- results: NAME -->` and `<!-- end -->` is replaced; people write the rest of the page.
"""

from __future__ import annotations

from pathlib import Path

from arra.errors import InputError
from arra.experiments.pages import fill_page
from arra.experiments.speed.plots import plot_growth, plot_ratios
from arra.experiments.speed.results import BenchResult, read_bench
from arra.experiments.speed.tables import markdown


def block(name: str, results: Path, link: str) -> str | None:
    """Plots and tables of the bench `name`; None where it has not been measured."""
    path = results / f"{name}.json"
    if not path.is_file():
        return None
    result = read_bench(path)
    pictures = [
        f"![{name}: {what}]({link}/{file.name})"
        for what, file in _plots(name, results).items()
        if file.is_file()
    ]
    return "\n\n".join([*pictures, markdown(result)])


def plot(result: BenchResult, folder: Path) -> list[Path]:
    """Write the plots that this result has something for; their paths."""
    drawn = []
    for draw, path in zip(
        (plot_ratios, plot_growth), _plots(result.bench, folder).values(), strict=True
    ):
        try:
            draw(result, path)
        except InputError:
            continue  # no peer to compare with, or nothing that grows
        drawn.append(path)
    return drawn


def record(runs: Path, results: Path) -> None:
    """Take the full results of all benches in `runs` into `results`, with their plots."""
    for path in sorted(runs.glob("*.json")):
        result = read_bench(path)
        if result.budget == "full":
            result.write(results / path.name)
            plot(result, results)


def _plots(name: str, folder: Path) -> dict[str, Path]:
    return {"ratios to the peers": folder / f"{name}.png", "growth": folder / f"{name}-growth.png"}


if __name__ == "__main__":
    fill_page("benches", block, record)
