"""The page of the documentation that shows every system with what its claim measured.

`python -m arra.systems.table --write docs/systems.md` writes it; without `--write` it is printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from arra.files import atomic_file
from arra.systems.base import System, list_systems, result_of
from arra.systems.results import ClaimResult, Measure

_HEAD = """# Systems

This page is generated from the results by `make docs-table`; do not edit it. `arra reproduce SLUG`
runs a claim again. In brackets: the interval that the claim computed over its seeds or prompts.
"""


def docs_table() -> str:
    """The page as Markdown: an overview, then what each claim measured."""
    rows = [(system, result_of(system)) for system in list_systems()]
    if not rows:
        return _HEAD + "\nThere are no systems yet.\n"
    lines = [
        "| system | title | arXiv | family | verdict | measured |",
        "|---|---|---|---|---|---|",
        *(_overview(system, result) for system, result in rows),
    ]
    sections = [_section(system, result) for system, result in rows if result is not None]
    return "\n".join([_HEAD, *lines, *sections]) + "\n"


def _cell(text: str) -> str:
    """`text` so that it stays within one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def _overview(system: System, result: ClaimResult | None) -> str:
    link = f"[{system.arxiv}](https://arxiv.org/abs/{system.arxiv})" if system.arxiv else "–"
    verdict, date = (result.verdict, result.date) if result else ("not measured", "–")
    cells = [f"`{system.slug}`", system.title, link, system.family, verdict, date]
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _section(system: System, result: ClaimResult) -> str:
    minutes = result.seconds / 60
    seeds = f"{len(result.seeds)} seed{'' if len(result.seeds) == 1 else 's'}"
    lines = [
        "",
        f"## {system.slug}: {result.verdict}",
        "",
        system.summary,
        "",
        result.statement,
        "",
        f"Scale: {result.scale}. {seeds}, {minutes:.1f} minutes on {result.machine_class}.",
        "",
        "| measure | with | baseline | control | better |",
        "|---|---|---|---|---|",
        *(_measure(measure) for measure in result.measures),
    ]
    return "\n".join(lines)


def _measure(measure: Measure) -> str:
    name = f"{measure.name} ({measure.unit})" if measure.unit else measure.name
    columns = [measure.system, measure.baseline, measure.control]
    texts = [str(column) if column is not None else "–" for column in columns]
    better = {"higher": "higher", "lower": "lower", "neither": "–"}[measure.better]
    return "| " + " | ".join([_cell(name), *texts, better]) + " |"


def main() -> None:
    """Print the page, or write it where `--write` says."""
    parser = argparse.ArgumentParser(description="Generate the documentation page of the systems.")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page to this file")
    target = parser.parse_args().write
    if target is None:
        print(docs_table(), end="")
        return
    with atomic_file(target) as temporary:
        temporary.write_text(docs_table(), encoding="utf-8")


if __name__ == "__main__":
    main()
