"""What claims do with the values of several seeds: means, paired differences, rows of the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from arra.experiments.parallel import Job, run_jobs
from arra.metrics.bootstrap import PairedDifference, paired_difference
from arra.systems.base import ClaimRun
from arra.systems.results import Better, Estimate, Measure

Result = dict[str, Any]
"""What a job of a claim measured, of one arm and seed."""
Reading = Callable[[Result], float]
"""Takes one number out of it."""
Row = tuple[str, Better, Reading]
"""A line of the table: its name, which direction is better, and the number."""


def run_arms(
    function: Callable[..., Result],
    arms: Collection[Any],
    run: ClaimRun,
    argument: str = "arm",
    **given: Any,
) -> dict[Any, list[Result]]:
    """What `function` measures of every arm, seed by seed.

    It is called, in processes of its own, with `given`, the claim's folder and quiet, the seed, and
    the arm as `argument`.
    """
    pairs = [(seed, arm) for seed in run.seeds for arm in arms]
    common = {**given, "folder": run.folder, "quiet": run.quiet}
    jobs = [
        Job(f"{arm}, seed {seed}", function, {**common, argument: arm, "seed": seed})
        for seed, arm in pairs
    ]
    found: dict[Any, list[Result]] = {arm: [] for arm in arms}
    for (_, arm), result in zip(pairs, run_jobs(jobs, quiet=run.quiet), strict=True):
        found[arm].append(result)
    return found


def at(*path: str) -> Reading:
    """The number that a result has at this path of names."""

    def read(result: Result) -> float:
        found: Any = result
        for name in path:
            found = found[name]
        return float(found)

    return read


def logarithm(read: Reading) -> Reading:
    """Of a number, so that differences are ratios."""
    return lambda result: math.log(max(read(result), 1e-6))


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


def gaps(differences: Mapping[str, PairedDifference]) -> list[Measure]:
    """Lines of the table, of paired differences by their names."""
    return [Measure(f"paired difference, {name}", estimate(d)) for name, d in differences.items()]


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
