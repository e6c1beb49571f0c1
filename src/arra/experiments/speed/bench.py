"""Benches: how they are found, and how one runs from its first case to its file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import arra.experiments.speed
from arra.environment import machine_class, machine_info, versions
from arra.errors import InputError
from arra.experiments.speed.measure import Case, CaseResult, Floors, measure
from arra.experiments.speed.results import BenchResult
from arra.progress import track

Budget = Literal["tiny", "full"]


@dataclass(frozen=True)
class Bench:
    """A module that asks how fast something is."""

    name: str
    question: str
    cases: Callable[[str, Path], Iterable[Callable[[], Case]]]
    """(budget, an existing folder) -> functions that build a case each."""


def list_benches() -> list[Bench]:
    """All modules of the package that have a question, by name."""
    found = []
    for entry in pkgutil.iter_modules(arra.experiments.speed.__path__):
        module = importlib.import_module(f"{arra.experiments.speed.__name__}.{entry.name}")
        if hasattr(module, "QUESTION"):
            found.append(Bench(entry.name, module.QUESTION, module.cases))
    return found


def choose_benches(names: Iterable[str]) -> list[Bench]:
    """The benches of these names, all for "all"; `InputError` with those that exist."""
    known = {bench.name: bench for bench in list_benches()}
    asked = list(dict.fromkeys(names))
    if asked == ["all"]:
        return list(known.values())
    for name in asked:
        if name not in known:
            raise InputError(f"no bench is named {name!r}; there are: {', '.join(known)}, all")
    return [known[name] for name in asked]


def run_bench(
    bench: Bench, floors: Floors, folder: str | Path, budget: Budget = "full", quiet: bool = False
) -> BenchResult:
    """Measure all cases of `bench`; `folder`/NAME.json holds what is measured after each of them.

    A case is built, measured and dropped before the next is built.
    """
    import torch

    folder = Path(folder)
    workplace = folder / "work" / bench.name
    workplace.mkdir(parents=True, exist_ok=True)
    builders = list(bench.cases(budget, workplace))
    machine = machine_info()
    measured: list[CaseResult] = []
    result: BenchResult | None = None
    with track(f"bench {bench.name}", len(builders), quiet) as task:
        for build in builders:
            measured.append(_measured(build, floors, budget))
            task.advance(note=measured[-1].name)
            result = BenchResult(
                bench=bench.name,
                question=bench.question,
                budget=budget,
                floors=floors,
                cases=tuple(measured),
                threads=torch.get_num_threads(),
                date=datetime.now(UTC).date().isoformat(),
                machine=dict(machine),
                machine_class=machine_class(machine),
                versions=versions(),
            )
            result.write(folder / f"{bench.name}.json")
    if result is None:
        raise InputError(f"bench {bench.name}: there are no cases for the budget {budget!r}")
    return result


def _measured(build: Callable[[], Case], floors: Floors, budget: Budget) -> CaseResult:
    if budget == "tiny":
        return measure(build(), floors, repeats=2, least=2)
    return measure(build(), floors)
