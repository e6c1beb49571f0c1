"""What a study measured: values by row, measure and seed; what follows from them is computed.

A file of a result holds the values and, for readers without this code, a `summary` of means,
differences and intervals. Reading it back takes the values alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from arra.environment import machine_class, machine_info, versions
from arra.errors import InputError
from arra.experiments.grid import Result, Study
from arra.files import read_json, to_plain, write_json
from arra.metrics.bootstrap import PairedDifference, paired_difference, pooled_differences
from arra.metrics.convergence import (
    LEAST_EVALUATIONS,
    ConvergenceFactor,
    Curve,
    convergence_factor,
    qualities,
)
from arra.metrics.measured import Interval

FORMAT = 1
BITS = "bits per token"
"""In names of measures: what a law of codes is measured in; a study of another one names it."""
Better = Literal["lower", "higher", "neither"]
Reading = tuple[str, Better, Callable[[Result], float]]
"""A measure: its name, which direction is an improvement, and how it is read from a result."""


@dataclass(frozen=True)
class MeasureName:
    """One measure of a result."""

    name: str
    better: Better


@dataclass(frozen=True)
class Row:
    """One variation."""

    name: str
    baseline: str
    """The row that it is compared with; its own name: with nothing."""
    paper: str
    """What the paper reports, as text; empty where it has nothing."""
    changes: dict[str, Any]
    """The fields that differ from the base setting, as plain values."""
    values: tuple[tuple[float, ...], ...]
    """By measure and seed."""
    steps: tuple[int, ...]
    """Steps at which the primary measure was evaluated during training."""
    course: tuple[tuple[float, ...], ...]
    """By seed: its values at those steps."""


@dataclass(frozen=True)
class StudyResult:
    """One study, measured over paired seeds. The first measure is the primary one."""

    study: str
    question: str
    paper: str
    """What the paper's numbers are."""
    seeds: tuple[int, ...]
    measures: tuple[MeasureName, ...]
    rows: tuple[Row, ...]
    settings: dict[str, Any]
    """The base setting."""
    date: str
    """The day of the measurement, YYYY-MM-DD (UTC)."""
    machine_class: str
    versions: dict[str, str] = field(default_factory=dict)

    def row(self, name: str) -> Row:
        """The row of this name."""
        return next(row for row in self.rows if row.name == name)

    def compared(self) -> list[Row]:
        """The rows that are compared with another."""
        return [row for row in self.rows if row.baseline != row.name]

    def difference(self, row: Row, measure: int = 0) -> PairedDifference | None:
        """Row minus its baseline over the seeds; None with fewer than two."""
        if len(self.seeds) < 2 or row.baseline == row.name:
            return None
        return paired_difference(row.values[measure], self.row(row.baseline).values[measure])

    def pooled(self, row: Row, measure: int = 0) -> Interval | None:
        """The same difference, with the spread pooled over all rows that share the baseline."""
        if len(self.seeds) < 2 or row.baseline == row.name:
            return None
        together = [other for other in self.compared() if other.baseline == row.baseline]
        baseline = self.row(row.baseline).values[measure]
        found = pooled_differences([other.values[measure] for other in together], baseline)
        return found[together.index(row)]

    @cached_property
    def convergence(self) -> dict[str, dict[str, ConvergenceFactor]]:
        """row -> quality -> factor, for rows whose course was followed; above 1: faster."""
        found: dict[str, dict[str, ConvergenceFactor]] = {}
        better: Any = self.measures[0].better
        for row in self.compared():
            baseline, mine = _curves(self.row(row.baseline)), _curves(row)
            if not baseline or not mine:
                continue
            found[row.name] = {
                name: convergence_factor(baseline, mine, quality, better)
                for name, quality in qualities(baseline).items()
            }
        return found

    def summary(self) -> list[dict[str, Any]]:
        """Means, differences and intervals as plain values."""
        return [self._summary(row) for row in self.rows]

    def _summary(self, row: Row) -> dict[str, Any]:
        found: dict[str, Any] = {"row": row.name, "compared_with": row.baseline, "measures": {}}
        for number, measure in enumerate(self.measures):
            values = row.values[number]
            facts: dict[str, Any] = {"mean": math.fsum(values) / len(values)}
            if (paired := self.difference(row, number)) is not None:
                facts["difference"] = paired.interval
                facts["p_value"] = paired.p_value
                facts["detectable"] = paired.detectable
                facts["pooled"] = self.pooled(row, number)
            found["measures"][measure.name] = facts
        if row.name in self.convergence:
            found["convergence"] = {
                quality: {
                    "factor": factor.interval,
                    "seeds": [str(one) for one in factor.factors],
                    "reached": factor.reached,
                }
                for quality, factor in self.convergence[row.name].items()
            }
        return to_plain(found)

    def write(self, path: str | Path) -> None:
        """Write values and summary as JSON, atomically."""
        write_json(path, {"format": FORMAT, **to_plain(self), "summary": self.summary()})


def _curves(row: Row) -> list[Curve]:
    enough = len(row.steps) >= LEAST_EVALUATIONS
    return [Curve(row.steps, values) for values in row.course] if enough else []


def watched(mark: Mapping[str, float]) -> float:
    """The primary measure in the course of a training: held-out bits, or the loss of vectors."""
    return mark["held_out_bits"] if "held_out_bits" in mark else mark["held_out_loss"]


def collect(
    study: Study,
    results: dict[str, list[Result]],
    base: Any,
    seeds: Sequence[int],
    measures: Sequence[Reading],
) -> StudyResult:
    """The result of a study from what its cells gave: variation -> results over the seeds."""
    rows = []
    for variation in study.variations:
        found = results[variation.name]
        marks = [result["training"]["validation"] for result in found]
        rows.append(
            Row(
                variation.name,
                variation.baseline,
                variation.paper,
                to_plain(dict(variation.changes)),
                tuple(tuple(float(read(r)) for r in found) for _, _, read in measures),
                tuple(mark["step"] for mark in marks[0]),
                tuple(tuple(map(watched, seed)) for seed in marks if seed),
            )
        )
    return StudyResult(
        study.name,
        study.question,
        study.paper,
        tuple(seeds),
        tuple(MeasureName(name.replace(BITS, study.law), better) for name, better, _ in measures),
        tuple(rows),
        to_plain(base),
        datetime.now(UTC).date().isoformat(),
        machine_class(machine_info()),
        versions(),
    )


def read_study(path: str | Path) -> StudyResult:
    """The result in a file that `StudyResult.write` made; `InputError` says what does not fit."""
    plain = read_json(path)
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise InputError(f"{path}: expected the result of a study, of format {FORMAT}")
    try:
        rows = tuple(
            Row(
                **{
                    **row,
                    "values": tuple(tuple(map(float, seeds)) for seeds in row["values"]),
                    "steps": tuple(map(int, row["steps"])),
                    "course": tuple(tuple(map(float, seeds)) for seeds in row["course"]),
                }
            )
            for row in plain["rows"]
        )
        given = {k: v for k, v in plain.items() if k not in ("format", "summary")}
        given["seeds"] = tuple(map(int, plain["seeds"]))
        given["measures"] = tuple(MeasureName(**measure) for measure in plain["measures"])
        result = StudyResult(**{**given, "rows": rows})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not the result of a study ({error})") from error
    _check(result, str(path))
    return result


def _check(result: StudyResult, where: str) -> None:
    names = [row.name for row in result.rows]
    for row in result.rows:
        if row.baseline not in names:
            raise InputError(
                f"{where}: row {row.name} is compared with {row.baseline!r}, not there"
            )
        if [len(v) for v in row.values] != [len(result.seeds)] * len(result.measures):
            raise InputError(
                f"{where}: row {row.name} has not one value for every measure and seed"
            )
