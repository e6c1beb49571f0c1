"""What a load test found, as it is kept, and the numbers that follow from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from arra.errors import InputError
from arra.experiments.load.config import LoadConfig
from arra.experiments.load.driving import Level
from arra.experiments.load.wire import Stop
from arra.files import read_json, write_json

FORMAT, FILE = 1, "load.json"
BOUNDS = (1.5, 2.0, 3.0, 5.0, 8.0)
"""Bounds, in latencies of a lone picture, for which rates are also read off between levels."""
TARGETS = {"one at a time": 3.0, "static batches": 1.5}
"""How many times the rate of these the engine should answer."""


@dataclass(frozen=True)
class Wire:
    """A server in a process of its own, loaded over HTTP."""

    level: Level
    """What became of the requests."""
    vanished: int
    """Requests of others meanwhile, whose clients left before the answer."""
    slow: int
    """Requests of others meanwhile, whose clients read slowly."""
    memory: tuple[tuple[float, float], ...]
    """Seconds since that load began, and MiB that the server had in memory."""
    stop: Stop
    """What became of requests when it was told to stop."""


@dataclass(frozen=True)
class LoadResult:
    """One load test on one machine."""

    model: str
    config: LoadConfig
    budget: str
    minutes: float
    units: int
    """Units of a picture."""
    pool: int
    different: int
    """Of so many different requests, how many have a picture that no other one has."""
    lone: float
    """Median seconds of a picture drawn alone on the idle machine."""
    bound: float
    """Seconds that the 95th percentile may be."""
    options: dict[str, str]
    saturated: tuple[Level, ...]
    """Each target with all clients asking again as soon as they are answered."""
    levels: tuple[Level, ...]
    """Each target at rising rates of Poisson arrivals."""
    soak: Level
    """The engine under a long load."""
    memory: tuple[tuple[float, float], ...]
    """Seconds since the long load began, and MiB that the process had in memory."""
    wire: Wire | None
    """The same over HTTP, where that was asked for."""
    threads: int
    date: str
    machine: dict[str, Any]
    machine_class: str
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The targets, the engine last."""
        return list(self.options)

    def of(self, name: str) -> list[Level]:
        """The levels of a target, by rate."""
        return sorted((x for x in self.levels if x.target == name), key=lambda level: level.rate)

    def rate(self, name: str) -> float:
        """Arrivals a second that a target answers within the bound; see `sustained`."""
        return sustained(self.of(name), self.bound)

    def ratio(self, name: str) -> float:
        """How many times the rate of `name` the engine answers within the bound."""
        rate = self.rate(name)
        return self.rate(self.names[-1]) / rate if rate else math.inf

    @property
    def astray(self) -> dict[str, int]:
        """Requests that got no picture, or a wrong one, in all loads of all targets."""
        every = [*self.saturated, *self.levels, self.soak]
        every += [self.wire.level] if self.wire is not None else []
        kinds = ("wrong", "lost", "refused", "failed")
        return {kind: sum(getattr(level, kind) for level in every) for kind in kinds}

    @property
    def slope(self) -> float:
        """MiB a minute by which memory grew over the last three quarters of the long load; NaN
        where the system does not tell."""
        return growth(self.memory)

    def summary(self) -> dict[str, Any]:
        """What readers want, as plain values."""
        return {
            "pictures a second, saturated": {x.target: x.throughput for x in self.saturated},
            "arrivals a second within the bound": {name: self.rate(name) for name in self.names},
            "times the rate of": {name: _finite(self.ratio(name)) for name in self.names[:-1]},
            "asked": TARGETS,
            "astray": self.astray,
            "memory grows (MiB a minute)": _finite(self.slope),
            "answered": sum(x.right for x in [*self.saturated, *self.levels, self.soak]),
        }

    def write(self, path: Path) -> None:
        """Write everything as JSON, atomically, with the summary."""
        memory = _samples(self.memory)
        write_json(path, {"format": FORMAT, **_plain(self), "memory": memory,
                          "summary": self.summary()})  # fmt: skip


def growth(memory: Sequence[tuple[float, float]]) -> float:
    """MiB a minute, over the last three quarters of samples (seconds, MiB); NaN where there are too
    few."""
    points = np.array(memory)
    if len(points) < 4 or not np.isfinite(points).all():
        return math.nan
    seconds, mib = points[len(points) // 4 :].T
    return float(np.polyfit(seconds / 60, mib, 1)[0])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(result: LoadResult) -> dict[str, Any]:
    """Its fields; numbers that JSON does not have as None."""

    def level(one: Level) -> dict[str, Any]:
        return {**vars(one), "latency": {k: _finite(v) for k, v in one.latency.items()}}

    levels = {"saturated": list(map(level, result.saturated)), "soak": level(result.soak)}
    wire = None
    if (over := result.wire) is not None:
        wire = {**vars(over), "level": level(over.level), "memory": _samples(over.memory)}
    return {**vars(result), **levels, "levels": list(map(level, result.levels)), "wire": wire}


def _samples(memory: Sequence[tuple[float, float]]) -> list[list[float | None]]:
    return [[seconds, _finite(mib)] for seconds, mib in memory]


def sustained(levels: Sequence[Level], bound: float) -> float:
    """The highest rate that was measured with a 95th percentile within `bound`, and all lower ones
    as well; 0 where there is none."""
    best = 0.0
    for level in sorted(levels, key=lambda level: level.rate):
        if level.p95 > bound:
            break
        best = level.rate
    return best


def crossing(levels: Sequence[Level], bound: float) -> float:
    """The rate at which the 95th percentile passes `bound`, read off between the two levels around
    it (its logarithm grows evenly there); the highest rate where it never does, 0 where at once."""
    before: Level | None = None
    for level in sorted(levels, key=lambda level: level.rate):
        if level.p95 > bound:
            if before is None:
                return 0.0
            if not math.isfinite(level.p95):
                return before.rate
            share = math.log(bound / before.p95) / math.log(level.p95 / before.p95)
            return before.rate + share * (level.rate - before.rate)
        before = level
    return before.rate if before is not None else 0.0


def read_load(path: Path) -> LoadResult:
    """The result in a file that `LoadResult.write` made; `InputError` names what does not fit."""
    value = read_json(path)
    if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
        raise InputError(f"{path}: expected the result of a load test, format {FORMAT}")
    value.pop("summary", None)
    try:
        checkpoint = value["config"]["checkpoint"]
        value["config"]["checkpoint"] = None if checkpoint is None else Path(checkpoint)
        value["config"] = LoadConfig(**value["config"])
        for name in ("saturated", "levels"):
            value[name] = tuple(_level(one) for one in value[name])
        value["soak"] = _level(value["soak"])
        value["memory"] = _memory(value["memory"])
        if (wire := value["wire"]) is not None:
            parts = {"level": _level(wire["level"]), "memory": _memory(wire["memory"])}
            value["wire"] = Wire(**{**wire, **parts, "stop": Stop(**wire["stop"])})
        return LoadResult(**value)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: not the result of a load test ({error})") from error


def _memory(samples: list[list[float | None]]) -> tuple[tuple[float, float], ...]:
    return tuple((one or 0.0, math.nan if mib is None else mib) for one, mib in samples)


def _level(value: dict[str, Any]) -> Level:
    latency = {k: math.nan if v is None else v for k, v in value["latency"].items()}
    return Level(**{**value, "latency": latency})
