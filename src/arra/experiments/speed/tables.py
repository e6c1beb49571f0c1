"""Tables of what benches measured: for the terminal and for a page."""

from __future__ import annotations

from arra.experiments.speed.measure import CaseResult, Timing
from arra.experiments.speed.results import BenchResult


def case_table(case: CaseResult) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: a contender each, its time, its ratios to the peers, its floor."""
    columns = ["contender", f"ms per {case.unit}"]
    columns += [f"times as fast as {peer}" for peer in case.peers]
    asked, bound = bool(case.targets), any(timing.floor for timing in case.timings)
    columns += ["asked"] * asked + ["times its floor"] * bound
    facts = list(dict.fromkeys(fact for timing in case.timings for fact in timing.facts))
    rows = []
    for timing in case.timings:
        row = [timing.name, f"{1e3 * timing.median / case.units:.4g}"]
        row += [_ratio(case, timing, peer) for peer in case.peers]
        if asked:
            target = case.targets.get(timing.name)
            row.append("" if target is None else f"≥ {target:g}")
        if bound:
            row.append(f"{timing.median / timing.floor:.2f}" if timing.floor else "")
        row += [_number(timing.facts.get(fact)) for fact in facts]
        rows.append(row)
    return columns + facts, rows


def curve_table(result: BenchResult) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: how time and memory grow along every series."""
    columns = ["grows with", "contender", "what", "from", "to", "exponent", "at the end"]
    rows = [
        [
            curve.series,
            curve.contender,
            curve.what,
            f"{curve.y[0]:.3g} at {curve.x[0]:g}",
            f"{curve.y[-1]:.3g} at {curve.x[-1]:g}",
            f"{curve.exponent:.2f}",
            f"{curve.last:.2f}",
        ]
        for curve in result.curves()
    ]
    return columns, rows


def floors_line(result: BenchResult) -> str:
    """The machine and its limits in a sentence."""
    floors = result.floors
    peaks = ", ".join(f"{value / 1e9:.0f} GFLOP/s in {name}" for name, value in floors.peak.items())
    return (
        f"{result.machine_class} ({result.machine.get('cpu', 'unknown processor')}), "
        f"{result.threads} threads, {result.date}: reads {floors.memory / 1e9:.1f} GB/s from "
        f"memory and {floors.cache / 1e9:.0f} GB/s from its caches, multiplies matrices at {peaks}."
    )


def markdown(result: BenchResult) -> str:
    """All of a bench for a page."""
    parts = [floors_line(result)]
    series = {curve.series for curve in result.curves()}
    for case in result.cases:
        if case.series not in series:
            parts.append(_case(case))
    if series:
        parts.append(markdown_table(*curve_table(result)))
        notes = {case.series: case.note for case in result.cases if case.series and case.note}
        parts += [f"{name}: {note}" for name, note in notes.items()]
    return "\n\n".join(parts)


def _case(case: CaseResult) -> str:
    repeats = len(case.timings[0].seconds)
    parts = [
        f"**{case.name}**: {repeats} repeats of {case.units} {case.unit}"
        f"{'s' if case.units > 1 else ''}.",
        markdown_table(*case_table(case)),
        "\n".join(f"- *{timing.name}*: {timing.options}" for timing in case.timings),
    ]
    if case.note:
        parts.append(case.note)
    return "\n\n".join(parts)


def markdown_table(columns: list[str], rows: list[list[str]]) -> str:
    """A table for a page."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _ratio(case: CaseResult, timing: Timing, peer: str) -> str:
    if timing.name == peer:
        return "1"
    middle, low, high = case.ratio(timing.name, peer)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
