"""One case of a bench: contenders that do the same work in turn, timed repeat by repeat.

They take turns because the speed of a machine drifts: ratios are taken within a repeat, and the
median over repeats is reported with its quartiles.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from arra.errors import InputError

Precision = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True)
class Work:
    """What one run has to do at the least, whoever does it: the floors come from it."""

    bytes: float = 0.0
    """Read from memory. Weights that are needed again for every token count again."""
    operations: float = 0.0
    """Arithmetic of matrix products; a multiply-add counts two."""
    cached: bool = False
    """Whether these bytes fit into the processor's last cache, and stay there between reads."""


@dataclass(frozen=True)
class Contender:
    """One way of doing the work of a case."""

    name: str
    """Such as "arra, int8 weights" or "transformers generate"."""
    options: str
    """What it is, with which options, in one line."""
    run: Callable[[], object]
    """Does all the work once. The first call is not timed as work: it compiles and warms up."""
    precision: Precision = "fp32"
    """In which arithmetic its floor is counted."""
    work: Work | None = None
    facts: Callable[[], Mapping[str, float]] | None = None
    """Asked after the runs: peak memory, share of padding, seconds of compiling."""

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise InputError(f"Contender.precision: {self.precision!r}, expected fp32, bf16, int8")


@dataclass(frozen=True)
class Case:
    """Contenders that do the same work."""

    name: str
    """Such as "demo model, batch 1"."""
    unit: str
    """What is counted: "token", "training step", "picture"."""
    units: int
    """How many of them a run does."""
    contenders: tuple[Contender, ...]
    peers: tuple[str, ...] = ()
    """Names of the contenders with which the others are compared."""
    targets: Mapping[str, float] = field(default_factory=dict)
    """How many times as fast as the first peer a contender should be."""
    series: str = ""
    """Cases of one series are points of a curve."""
    at: float = 0.0
    """Where on the curve."""
    note: str = ""
    """What a reader has to know of this case."""

    def __post_init__(self) -> None:
        names = [contender.name for contender in self.contenders]
        if len(set(names)) < len(names) or not names:
            raise InputError(f"Case {self.name!r}: contenders {names}, expected different names")
        if unknown := sorted({*self.peers, *self.targets} - set(names)):
            raise InputError(f"Case {self.name!r}: {unknown[0]!r} is no contender of it")
        if self.units < 1:
            raise InputError(f"Case {self.name!r}: units {self.units}, expected at least 1")
        if self.series and self.at <= 0:
            raise InputError(f"Case {self.name!r}: at {self.at}, expected a place on the curve")


@dataclass(frozen=True)
class Floors:
    """What the machine can do, measured: see `arra.experiments.speed.floors`."""

    memory: float
    """Bytes a second that are read from memory."""
    cache: float
    """Bytes a second that are read again and again from the processor's caches."""
    peak: dict[str, float]
    """Operations a second of a large matrix product, by precision."""

    def seconds(self, work: Work, precision: Precision) -> float:
        """The least time that `work` takes: the slower of reading and computing."""
        reading = work.bytes / (self.cache if work.cached else self.memory)
        return max(reading, work.operations / self.fastest(precision))

    def fastest(self, precision: Precision) -> float:
        """Operations a second; int8 weights are multiplied in whichever arithmetic is fastest."""
        return max(self.peak.values()) if precision == "int8" else self.peak[precision]


@dataclass(frozen=True)
class Timing:
    """What one contender took."""

    name: str
    options: str
    precision: Precision
    seconds: tuple[float, ...]
    """Of each repeat, for all units of a run."""
    first: float
    """Seconds of the first run, which compiles and warms up."""
    floor: float | None = None
    """Least seconds of a run on this machine; None where nobody counted the work."""
    facts: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Seconds of a run."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class CaseResult:
    """What was measured of a case."""

    name: str
    unit: str
    units: int
    timings: tuple[Timing, ...]
    peers: tuple[str, ...] = ()
    targets: dict[str, float] = field(default_factory=dict)
    series: str = ""
    at: float = 0.0
    note: str = ""

    def timing(self, name: str) -> Timing:
        """That of the contender `name`."""
        return next(timing for timing in self.timings if timing.name == name)

    def ratio(self, name: str, peer: str) -> tuple[float, float, float]:
        """Median, lower and upper quartile of how many times as fast as `peer` `name` is."""
        mine, other = self.timing(name).seconds, self.timing(peer).seconds
        ratios = [b / a for a, b in zip(mine, other, strict=True)]
        if len(ratios) < 2:
            return ratios[0], ratios[0], ratios[0]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return middle, low, high

    def summary(self) -> list[dict[str, Any]]:
        """A row for each contender, as plain values."""
        return [self._row(timing) for timing in self.timings]

    def _row(self, timing: Timing) -> dict[str, Any]:
        row: dict[str, Any] = {
            "contender": timing.name,
            f"milliseconds per {self.unit}": 1e3 * timing.median / self.units,
        }
        for peer in self.peers:
            if peer != timing.name:
                row[f"times as fast as {peer}"] = self.ratio(timing.name, peer)
        if timing.name in self.targets:
            row["asked"] = self.targets[timing.name]
        if timing.floor:
            row["times the floor"] = timing.median / timing.floor
        return {**row, **timing.facts}


def measure(
    case: Case, floors: Floors, *, repeats: int = 15, seconds: float = 20.0, least: int = 5
) -> CaseResult:
    """Time every contender of `case`, at least `least` and at most `repeats` times.

    After `least` repeats it ends when about `seconds` have been spent. Within a repeat the order
    moves on by one, so that nobody always runs after the same neighbour.
    """
    if not 1 <= least <= repeats:
        raise InputError(f"measure: least {least}, expected 1 to repeats ({repeats})")
    first = [_clocked(contender.run) for contender in case.contenders]
    times: list[list[float]] = [[] for _ in case.contenders]
    started = time.perf_counter()
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection in the middle of somebody's run is nobody's fault
    try:
        for repeat in range(repeats):
            if repeat >= least and time.perf_counter() - started > seconds:
                break
            for index in _turn(len(times), repeat):
                times[index].append(_clocked(case.contenders[index].run))
            gc.collect(0)
    finally:
        if enabled:
            gc.enable()
    timings = [
        _timing(contender, floors, times[index], first[index])
        for index, contender in enumerate(case.contenders)
    ]
    told = {
        one.name: getattr(case, one.name) for one in fields(CaseResult) if one.name != "timings"
    }
    return CaseResult(**{**told, "targets": dict(case.targets)}, timings=tuple(timings))


def _turn(count: int, repeat: int) -> list[int]:
    return [(index + repeat) % count for index in range(count)]


def _timing(contender: Contender, floors: Floors, times: Sequence[float], first: float) -> Timing:
    work = contender.work
    floor = None if work is None else floors.seconds(work, contender.precision)
    facts = contender.facts() if contender.facts is not None else {}
    found = {name: float(value) for name, value in facts.items() if math.isfinite(value)}
    return Timing(
        contender.name, contender.options, contender.precision, tuple(times), first, floor, found
    )


def _clocked(run: Callable[[], object]) -> float:
    wait()
    began = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - began


def wait() -> None:
    """Wait for the device, where there is one that works behind our back."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
