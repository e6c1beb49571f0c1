"""What claims do with the values of several seeds: means, paired differences, rows of the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from arra.metrics.bootstrap import PairedDifference, paired_difference
from arra.systems.results import Better, Estimate, Measure

Result = dict[str, Any]
"""What a job of a claim measured, of one arm and seed."""
Reading = Callable[[Result], float]
"""Takes one number out of it."""
Row = tuple[str, Better, Reading]
"""A line of the table: its name, which direction is better, and the number."""


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean over seeds with its 95 % t interval; without one where there is a single seed."""
    if len(values) < 2:
        return Estimate(values[0], per_seed=tuple(values))
    gap = paired_difference(values, [0.0] * len(values)).interval
    return Estimate(gap.value, gap.low, gap.high, tuple(values))


def paired(read: Reading, one: Sequence[Result], other: Sequence[Result]) -> PairedDifference:
    """One minus other, seed by seed (at least two)."""
    return paired_difference([read(r) for r in one], [read(r) for r in other])


def estimate(difference: PairedDifference) -> Estimate:
    """A paired difference as a value of the table, with the difference of each seed."""
    i = difference.interval
    return Estimate(i.value, i.low, i.high, difference.differences)


def measure(
    row: Row,
    system: Sequence[Result],
    baseline: Sequence[Result] | None = None,
    control: Sequence[Result] | None = None,
) -> Measure:
    """A line of the table from the results of its three columns."""
    name, better, read = row
    columns = [
        None if results is None else over_seeds([read(r) for r in results])
        for results in (system, baseline, control)
    ]
    assert columns[0] is not None
    return Measure(name, columns[0], columns[1], columns[2], better)


def beside(name: str, better: Better, *columns: tuple[Sequence[Result], Reading]) -> Measure:
    """A line of the table whose up to three columns are read each in its own way."""
    found: list[Estimate | None] = [
        over_seeds([read(result) for result in results]) for results, read in columns
    ]
    system, baseline, control = [*found, None, None][:3]
    assert system is not None
    return Measure(name, system, baseline, control, better)
