"""What a bench measured, as it is kept: every second of every repeat, and on what machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from arra.errors import InputError
from arra.experiments.speed.measure import CaseResult, Floors, Timing
from arra.files import read_json, write_json

FORMAT = 1


@dataclass(frozen=True)
class Curve:
    """How something grows along a series: y is about a * x ** exponent."""

    series: str
    contender: str
    what: str
    """"seconds", or the name of a fact."""
    x: tuple[float, ...]
    y: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """Slope of the straight line through the logarithms, by least squares."""
        return float(np.polyfit(np.log(self.x), np.log(self.y), 1)[0])

    @property
    def last(self) -> float:
        """Slope between the last two points: what larger sizes are heading for."""
        x, y = np.log(self.x[-2:]), np.log(self.y[-2:])
        return float((y[1] - y[0]) / (x[1] - x[0]))


@dataclass(frozen=True)
class BenchResult:
    """One bench on one machine."""

    bench: str
    question: str
    budget: str
    floors: Floors
    cases: tuple[CaseResult, ...]
    threads: int
    """Threads that torch computes with."""
    date: str
    """The day of the measurement, YYYY-MM-DD (UTC)."""
    machine: dict[str, Any]
    machine_class: str
    versions: dict[str, str] = field(default_factory=dict)

    def curves(self) -> list[Curve]:
        """Of every series with three points or more: time, and the facts that all points have."""
        found = []
        for series in dict.fromkeys(case.series for case in self.cases if case.series):
            points = sorted(
                (case for case in self.cases if case.series == series), key=lambda case: case.at
            )
            if len(points) >= 3:
                for name in [timing.name for timing in points[0].timings]:
                    found += _curves(series, name, points)
        return found

    def write(self, path: str | Path) -> None:
        """Write everything as JSON, atomically, with the summary that readers want."""
        summary = {case.name: case.summary() for case in self.cases}
        exponents = [
            {
                "series": curve.series,
                "contender": curve.contender,
                "what": curve.what,
                "exponent": curve.exponent,
                "between the last two": curve.last,
            }
            for curve in self.curves()
        ]
        write_json(
            path, {"format": FORMAT, **vars(self), "summary": summary, "exponents": exponents}
        )


def _curves(series: str, name: str, points: list[CaseResult]) -> list[Curve]:
    timings = [timing for case in points for timing in case.timings if timing.name == name]
    if len(timings) < len(points):
        return []
    x = tuple(case.at for case in points)
    seconds = tuple(timing.median for timing in timings)
    found = [Curve(series, name, "seconds", x, seconds)]
    for fact in timings[0].facts:
        values = tuple(timing.facts.get(fact, 0.0) for timing in timings)
        if all(value > 0 for value in values):
            found.append(Curve(series, name, fact, x, values))
    return found


def read_bench(path: str | Path) -> BenchResult:
    """The result in a file that `BenchResult.write` made; `InputError` names what does not fit."""
    value = read_json(path)
    if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
        raise InputError(f"{path}: expected the result of a bench, format {FORMAT}")
    for made in ("summary", "exponents"):
        value.pop(made, None)
    try:
        value["floors"] = Floors(**value["floors"])
        value["cases"] = tuple(_case(case) for case in value["cases"])
        return BenchResult(**value)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not the result of a bench ({error})") from error


def _case(value: Mapping[str, Any]) -> CaseResult:
    timings = tuple(
        Timing(**{**timing, "seconds": tuple(timing["seconds"])}) for timing in value["timings"]
    )
    return CaseResult(**{**value, "timings": timings, "peers": tuple(value["peers"])})
