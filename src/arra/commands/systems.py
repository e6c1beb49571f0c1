"""`arra systems`: the list of published systems and what their claims measured."""

from __future__ import annotations


def command(json: bool = False) -> None:
    """List the published systems, with the verdict of each claim and when it was measured.

    Args:
        json: Print a JSON list for programs instead of a table.
    """
    from arra.systems.base import list_systems, result_of

    rows = []
    for system in list_systems():
        result = result_of(system)
        row = {
            "slug": system.slug,
            "title": system.title,
            "arxiv": system.arxiv,
            "family": system.family,
            "summary": system.summary,
            "verdict": result.verdict if result else None,
            "measured": result.date if result else None,
        }
        rows.append(row)
    if json:
        _print_json(rows)
    else:
        _print_table(rows)


def _print_json(rows: list[dict[str, str | None]]) -> None:
    from json import dumps

    print(dumps(rows, indent=2, ensure_ascii=False))


def _print_table(rows: list[dict[str, str | None]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("system", "title", "arXiv", "family", "verdict", "measured")
    for row in rows:
        cells = [row[key] for key in ("slug", "title", "arxiv", "family")]
        table.add_row(*cells, row["verdict"] or "not measured", row["measured"] or "–")
    Console().print(table)
