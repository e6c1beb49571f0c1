"""`arra reproduce`: run the claim of a published system."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from arra.systems.results import ClaimResult


def command(
    slug: Positional[str],
    seeds: int | None = None,
    out: Annotated[Path | None, arg(metavar="DIR")] = None,
    budget: Literal["tiny", "full"] = "full",
    json: bool = False,
) -> None:
    """Run the claim of a system: its idea against a baseline and a control, over seeds.

    The result goes to DIR/result.json. In a source tree a full run with enough seeds also replaces
    the committed result, from which `make docs-table` makes the documentation. The exit code is 0
    whatever the verdict is; the verdict is in the output.

    Args:
        slug: Which system; `arra systems` lists them.
        seeds: How many seeds to run. Default: as many as the system asks for.
        out: Folder for the result and what belongs to it. Default: runs/SLUG.
        budget: "tiny" only shows that the claim runs; "full" measures.
        json: Print the result as JSON for programs instead of a table.
    """
    from arra.systems.base import get_system, is_recorded, reproduce, result_file

    folder = out if out is not None else Path("runs") / slug
    result = reproduce(slug, seeds, folder, budget, quiet=json)
    if json:
        print((folder / "result.json").read_text(encoding="utf-8"), end="")
        return
    _print_table(result)
    print(f"written to {folder / 'result.json'}")
    system = get_system(slug)
    if is_recorded(system, result):
        print(f"recorded in {result_file(system)}")


def _print_table(result: ClaimResult) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    console.print(f"[bold]{result.slug}: {result.verdict}[/bold], {result.seconds:.0f} s")
    console.print(escape(result.statement))
    console.print(escape(result.scale))
    table = Table("measure", "with", "baseline", "control", "better")
    for measure in result.measures:
        columns = [measure.system, measure.baseline, measure.control]
        cells = ["–" if column is None else escape(str(column)) for column in columns]
        name = f"{measure.name} ({measure.unit})" if measure.unit else measure.name
        table.add_row(escape(name), *cells, measure.better)
    console.print(table)
