"""What a claim measured: the record that is committed beside the system and shown in the docs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from arra.errors import InputError
from arra.files import read_json, write_json

Verdict = Literal["pass", "fail", "inconclusive"]
Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Estimate:
    """One number with its interval, and the values of the seeds from which it comes."""

    value: float
    low: float | None = None
    """Lower end of the interval; None where none was computed."""
    high: float | None = None
    """Upper end of the interval."""
    per_seed: tuple[float, ...] = ()
    """The value at each seed, in the order of `ClaimResult.seeds`."""

    def __post_init__(self) -> None:
        numbers = [self.value, self.low, self.high, *self.per_seed]
        if any(number is not None and not math.isfinite(number) for number in numbers):
            raise InputError(f"Estimate: {numbers} holds a value that is not finite")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise InputError(f"Estimate: the interval [{self.low}, {self.high}] is empty")

    def __str__(self) -> str:
        text = f"{self.value:.4g}"
        if self.low is None or self.high is None:
            return text
        return f"{text} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Measure:
    """One thing that was measured, for the system and for what it is compared with."""

    name: str
    """What it is, such as "held-out bits per token"."""
    system: Estimate
    """With the published idea."""
    baseline: Estimate | None = None
    """Without it, everything else equal."""
    control: Estimate | None = None
    """With something that costs the same but should not help, such as shuffled targets."""
    better: Better = "neither"
    """Which direction is an improvement."""
    unit: str = ""
    """Unit, empty for pure numbers and shares."""


@dataclass(frozen=True)
class ClaimResult:
    """What a claim found. A claim fills the first block; `reproduce` adds the second."""

    verdict: Verdict
    """"pass": the statement held; "fail": the opposite was measured; "inconclusive": the
    experiment could not tell."""
    statement: str
    """The statement that was tested and what came out, in a sentence or two."""
    measures: tuple[Measure, ...]
    """Everything that was measured."""
    scale: str
    """How large the experiment was: data, parameters, steps."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The configuration that gives the result again."""

    slug: str = ""
    """Which system."""
    seeds: tuple[int, ...] = ()
    """The seeds that ran."""
    budget: str = ""
    """The budget that it ran with."""
    seconds: float = 0.0
    """Wall-clock time of the whole claim."""
    date: str = ""
    """The day of the measurement, YYYY-MM-DD (UTC)."""
    machine: dict[str, Any] = field(default_factory=dict)
    """As `arra.environment.machine_info` gives it."""
    machine_class: str = ""
    """The machine in a phrase."""
    versions: dict[str, str] = field(default_factory=dict)
    """As `arra.environment.versions` gives it."""

    def __post_init__(self) -> None:
        if self.verdict not in get_args(Verdict):
            known = ", ".join(get_args(Verdict))
            raise InputError(f"ClaimResult.verdict: {self.verdict!r}, expected one of {known}")
        if not self.statement.strip() or not self.measures:
            raise InputError("ClaimResult: expected a statement and at least one measure")

    def write(self, path: str | Path) -> None:
        """Write the result as JSON, atomically."""
        write_json(path, self)


def read_result(path: str | Path) -> ClaimResult:
    """The result in a file that `ClaimResult.write` made; `InputError` names what does not fit."""
    values = _known(read_json(path), ClaimResult, str(path))
    where = f"{path}: measures"
    measures = values.get("measures")
    if not isinstance(measures, list):
        raise InputError(f"{where}: expected a list")
    values["measures"] = tuple(_measure(m, f"{where}[{i}]") for i, m in enumerate(measures))
    values["seeds"] = tuple(values.get("seeds", ()))
    return _build(ClaimResult, values, str(path))


def _measure(value: Any, where: str) -> Measure:
    values = _known(value, Measure, where)
    for column in ("system", "baseline", "control"):
        if values.get(column) is not None:
            estimate = _known(values[column], Estimate, f"{where}.{column}")
            estimate["per_seed"] = tuple(estimate.get("per_seed", ()))
            values[column] = _build(Estimate, estimate, f"{where}.{column}")
    return _build(Measure, values, where)


def _known(value: Any, kind: type, where: str) -> dict[str, Any]:
    """A copy of the JSON object `value`, all of whose keys are fields of the dataclass `kind`."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object, found {type(value).__name__}")
    if unknown := sorted(set(value) - {f.name for f in fields(kind)}):
        raise InputError(f"{where}: unknown field {unknown[0]!r}")
    return dict(value)


def _build(kind: type, values: dict[str, Any], where: str) -> Any:
    try:
        return kind(**values)
    except (TypeError, InputError) as error:
        raise InputError(f"{where}: {error}") from error
