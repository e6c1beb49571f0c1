"""Published systems: what they are, how they are found, and how their claims are run.

A system is a subpackage `arra.systems.<slug>` whose `__init__` has a constant `SYSTEM`. Adding the
folder is all there is to registering it. The result of its claim is `result.json` in that folder.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

import arra.systems
from arra.environment import machine_class, machine_info, source_tree, versions
from arra.errors import ArraError, InputError
from arra.systems.results import ClaimResult, read_result

Budget = Literal["tiny", "full"]


@dataclass(frozen=True)
class ClaimRun:
    """What a claim is told when it runs."""

    seeds: tuple[int, ...]
    """The seeds to run, one repetition of all arms each."""
    folder: Path
    """An existing folder for whatever the claim wants to keep: stores, checkpoints, pictures."""
    budget: Budget = "full"
    """"tiny" only shows that the claim runs, in seconds; "full" is what results come from."""
    quiet: bool = False
    """Show no progress."""


Claim = Callable[[ClaimRun], ClaimResult]


@dataclass(frozen=True)
class System:
    """A published system."""

    slug: str
    """Its name on the command line: small letters, digits and hyphens."""
    title: str
    """The title of the paper."""
    arxiv: str
    """The arXiv id, such as "2503.07334"; empty where there is none."""
    family: str
    """Which family of systems it belongs to, such as "lead"."""
    summary: str
    """Its idea in one sentence."""
    claim: Claim
    """Runs the experiment. Give `deferred("package.module:function")`: then listing stays cheap."""
    seeds: int = 5
    """How many seeds a result that is to be recorded needs."""
    first_seed: int = 0
    """The first of them; those before it served to choose settings."""

    @property
    def module(self) -> str:
        """The name of the package that the system lives in."""
        return f"arra.systems.{self.slug.replace('-', '_')}"


def deferred(target: str) -> Claim:
    """A claim that imports its module, given as "package.module:function", when it is called."""
    module, _, name = target.partition(":")

    def run(claim_run: ClaimRun) -> ClaimResult:
        return getattr(importlib.import_module(module), name)(claim_run)

    return run


def list_systems() -> list[System]:
    """All systems, sorted by slug."""
    found = []
    for entry in pkgutil.iter_modules(arra.systems.__path__):
        if not entry.ispkg:
            continue
        name = f"arra.systems.{entry.name}"
        system = getattr(importlib.import_module(name), "SYSTEM", None)
        if not isinstance(system, System) or system.module != name:
            raise ArraError(f"{name}: expected a constant SYSTEM, a System with the package's slug")
        found.append(system)
    return sorted(found, key=lambda system: system.slug)


def get_system(slug: str) -> System:
    """The system with this slug; `InputError` with the known ones if there is none."""
    systems = {system.slug: system for system in list_systems()}
    if slug not in systems:
        raise InputError(f"no system is named {slug!r}; there are: {', '.join(systems) or 'none'}")
    return systems[slug]


def result_file(system: System) -> Path:
    """Where the committed result of a system is, whether or not it exists yet."""
    return Path(str(files(system.module))) / "result.json"


def result_of(system: System) -> ClaimResult | None:
    """The committed result of a system, or None if none was recorded yet."""
    path = result_file(system)
    return read_result(path) if path.is_file() else None


def reproduce(
    slug: str,
    seeds: int | None = None,
    folder: str | Path | None = None,
    budget: Budget = "full",
    quiet: bool = False,
) -> ClaimResult:
    """Run the claim of a system and write `result.json` into `folder` (default runs/<slug>).

    `seeds` is their number, from the system's first on (default: as many as it asks for). The
    committed result is replaced too if arra runs from its source tree, the budget is "full" and
    there are no fewer seeds than the system asks for: a quick try never overwrites a measurement.
    """
    system = get_system(slug)
    count = system.seeds if seeds is None else seeds
    if count < 1:
        raise InputError(f"seeds: {count}, expected at least 1")
    if budget not in get_args(Budget):
        raise InputError(f"budget: {budget!r}, expected one of {', '.join(get_args(Budget))}")
    target = Path(folder) if folder is not None else Path("runs") / slug
    target.mkdir(parents=True, exist_ok=True)
    first = system.first_seed
    run = ClaimRun(tuple(range(first, first + count)), target, budget, quiet)

    start = time.perf_counter()
    found = system.claim(run)
    seconds = time.perf_counter() - start

    machine = machine_info()
    result = replace(
        found,
        slug=slug,
        seeds=run.seeds,
        budget=budget,
        seconds=round(seconds, 1),
        date=datetime.now(UTC).date().isoformat(),
        machine=dict(machine),
        machine_class=machine_class(machine),
        versions=versions(),
    )
    result.write(target / "result.json")
    if is_recorded(system, result):
        result.write(result_file(system))
    return result


def is_recorded(system: System, result: ClaimResult) -> bool:
    """Whether `reproduce` replaces the committed result of `system` by `result`."""
    enough = result.budget == "full" and len(result.seeds) >= system.seeds
    return enough and source_tree() is not None
