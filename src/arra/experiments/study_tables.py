"""Results of studies as Markdown: a table each, and how far their seeds can see."""

from __future__ import annotations

from collections.abc import Sequence

from arra.experiments.study_results import Row, StudyResult
from arra.metrics.measured import Interval

_DIGITS = 3


def markdown(results: Sequence[StudyResult]) -> str:
    """All tables, one section for each study."""
    return "\n\n".join(section(result) for result in results) + "\n"


def section(result: StudyResult) -> str:
    """One study: its question, its table, its convergence factors, and what it rests on."""
    parts = [f"### {result.study}", result.question, _lines(*table(result))]
    if result.convergence:
        parts += [
            "Convergence factor: steps without alignment over steps with it, to the same held-out "
            "bits; above 1 is faster.",
            _lines(*convergence_table(result)),
        ]
    parts.append(foot(result))
    return "\n\n".join(parts)


def table(result: StudyResult) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the study's table."""
    primary = result.measures[0].name
    columns = [
        "variation",
        primary,
        "difference [95 %, paired t]",
        "[95 %, spread pooled]",
        *(measure.name for measure in result.measures[1:]),
    ]
    if result.paper:
        columns.append(f"paper: {result.paper}")
    rows = []
    for row in result.rows:
        paired, pooled = result.difference(row), result.pooled(row)
        cells = [
            row.name,
            f"{_mean(row, 0):.{_DIGITS}f}",
            "–" if paired is None else signed(paired.interval),
            "–" if pooled is None else f"[{pooled.low:+.{_DIGITS}f}, {pooled.high:+.{_DIGITS}f}]",
            *(f"{_mean(row, n):.{_DIGITS}f}" for n in range(1, len(result.measures))),
        ]
        if result.paper:
            cells.append(row.paper or "–")
        rows.append(cells)
    return columns, rows


def convergence_table(result: StudyResult) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the convergence factors: a row for each variation."""
    qualities = list(dict.fromkeys(q for found in result.convergence.values() for q in found))
    rows = [
        [name, *(str(found[quality]) if quality in found else "–" for quality in qualities)]
        for name, found in result.convergence.items()
    ]
    return ["variation", *qualities], rows


def foot(result: StudyResult) -> str:
    """What the table rests on, and which difference it would have found."""
    primary = result.measures[0]
    found = [result.difference(row) for row in result.compared()]
    detectable = sorted(one.detectable for one in found if one is not None)
    seeds = len(result.seeds)
    text = (
        f"{primary.name}: {primary.better} is better. {seeds} paired seed"
        f"{'' if seeds == 1 else 's'}; {result.date}, {result.machine_class}."
    )
    if not detectable:
        return text + " One seed shows no spread: nothing can be concluded."
    return text + (
        f" A true difference of {detectable[0]:.3g} (the quietest row) to {detectable[-1]:.3g} "
        "(the loudest) would be found by the paired t test in 80 % of repetitions."
    )


def signed(interval: Interval) -> str:
    """A difference with its interval."""
    value, low, high = (f"{x:+.{_DIGITS}f}" for x in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def _mean(row: Row, measure: int) -> float:
    values = row.values[measure]
    return sum(values) / len(values)


def _lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(columns), "|" + "---|" * len(columns), *map(line, rows)])
