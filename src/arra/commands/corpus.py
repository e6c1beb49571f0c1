"""`arra corpus`: real pictures, with and without alignment, judged by networks of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg


def command(
    name: Positional[Literal["emoji", "xray", "cifar10", "fashion"]],
    data: Annotated[Path, arg(metavar="DIR")],
    out: Annotated[Path, arg(metavar="DIR")] = Path("runs/corpora"),
    budget: Literal["small", "full"] = "small",
    seeds: int = 3,
    arms: tuple[Literal["baseline", "aligned", "shuffled"], ...] = ("baseline", "aligned"),
    steps: int | None = None,
    generator: Annotated[str, arg(metavar="NAME")] = "raster",
    processes: int | None = None,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Train and judge a recipe on real pictures, without and with alignment, over paired seeds.

    Everything is made from the training pictures: codec, teacher, judge, language models. DIR/NAME
    gets report.json, report.html, grid.png and the model of every seed and arm. xray goes on from
    the emoji models (ARRA-Adapt), which it trains first where they are not there. Interrupted, the
    same command goes on; with more seeds or arms it keeps what is there.

    Args:
        name: Which recipe.
        data: Folder with the folders emoji, chest_xray, cifar10 and fashion_mnist.
        out: Folder of the results of all recipes.
        budget: "small" is minutes for each arm on two CPU cores, "full" a few hours for all, or
            minutes on a GPU.
        seeds: How many training seeds.
        arms: Which arms: without alignment, with it, and aligned to the wrong pictures (a control).
        steps: Training steps of the language models, instead of the recipe's.
        generator: What is drawn next: a code (raster), a whole scale (scales), bits (bits), or
            vectors, by the names of `arra train --generator` (masked-vectors, entities, ...).
            Others than raster have a codec and a folder of their own.
        processes: Arms that run side by side. Default: one for each core, or one with a GPU.
        device: Where codec, teacher and judge run: auto, cpu, cuda, cuda:1, mps.
        json: Print the report as JSON for programs instead of a table.
    """
    from arra.experiments.corpora.running import bench_for, run_corpus
    from arra.jobs.console import choose_device
    from arra.systems.arra.corpora import ARMS, CORPORA, SCALES, drawn_by

    corpus = CORPORA[name](SCALES[budget])
    if generator != "raster":
        corpus = drawn_by(corpus, generator)
    if steps is not None:
        corpus = corpus.in_steps(steps)
    bench = bench_for(corpus, data, out, choose_device(device), quiet=json)
    wanted = [arm for key, arm in ARMS.items() if key in arms]
    report = run_corpus(bench, wanted, range(seeds), processes=processes)
    if json:
        print((bench.folder / "report.json").read_text(encoding="utf-8"), end="")
        return
    _print_table(report)
    print(f"The page: {bench.folder / 'report.html'}")


def _print_table(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from arra.experiments.corpora.results import describe, table

    heading, rows = table(report)
    console = Console()
    console.print(escape(describe(report)))
    shown = Table(*map(escape, heading), title=report["title"])
    for row in rows:
        shown.add_row(*map(escape, row))
    console.print(shown)
