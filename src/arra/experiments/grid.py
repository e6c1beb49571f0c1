"""A grid of experiments: studies that vary one recipe, over paired seeds, resumable.

A study is a table of named variations, and a variation says which fields of a base setting differ:

    Study("weight", "How strong?", (
        Variation("none", {"alignment": None}),
        *vary("alignment.weight", (0.5, 1.0, 2.0)),
    ))

A setting is any frozen dataclass. Together with a seed it makes a cell; equal cells are one,
however many studies ask for them. How a cell is run, and where its result is kept, is a `Runner`'s
affair: `arra.experiments.scene_cells` has the one for digit scenes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Protocol, TypeVar

from arra.errors import InputError
from arra.experiments.parallel import Job, run_jobs
from arra.files import sha256_of_json, to_plain

S = TypeVar("S")
Result = dict[str, Any]
"""What a runner gives for a cell: plain values."""
Table = dict[str, dict[str, list[Result]]]
"""study -> variation -> results, in the order of the seeds."""


@dataclass(frozen=True)
class Variation:
    """One row of a study."""

    name: str
    """Short name, unique in its study."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Dotted names of fields of the base setting -> their values here."""
    baseline: str = "none"
    """The row of the same study that this one is compared with; its own name: with nothing."""
    paper: str = ""
    """What the paper reports for this row, as text."""


@dataclass(frozen=True)
class Study:
    """A table of variations that answer one question."""

    name: str
    question: str
    """What is asked, in a sentence."""
    variations: tuple[Variation, ...]
    paper: str = ""
    """What the paper's numbers are; empty where it has none."""
    law: str = "bits per token"
    """What held-out pictures are measured in."""

    def __post_init__(self) -> None:
        names = [variation.name for variation in self.variations]
        if len(set(names)) < len(names):
            raise InputError(f"Study {self.name}: two variations have one name ({names})")
        for variation in self.variations:
            if variation.baseline not in names:
                raise InputError(
                    f"Study {self.name}: {variation.name} is compared with "
                    f"{variation.baseline!r}, which is none of {', '.join(names)}"
                )


def vary(name: str, values: Sequence[Any], baseline: str = "none") -> tuple[Variation, ...]:
    """A variation for each value of one field, named by the value."""
    return tuple(Variation(str(value), {name: value}, baseline) for value in values)


def changed(setting: S, changes: Mapping[str, Any]) -> S:
    """`setting` with other values at some dotted names; `InputError` for a name that is not there.

    A field of a part that is None cannot be set: give the whole part first.
    """
    for name, value in changes.items():
        setting = _replaced(setting, name.split("."), value, name)
    return setting


def _replaced(part: Any, path: Sequence[str], value: Any, name: str) -> Any:
    if not is_dataclass(part) or isinstance(part, type):
        raise InputError(f"{name}: {path[0]!r} would be a field of {part!r}, which has none")
    known = [f.name for f in fields(part)]
    if path[0] not in known:
        raise InputError(
            f"{name}: {type(part).__name__} has no field {path[0]!r}; it has: {', '.join(known)}"
        )
    rest = path[1:]
    if rest:
        value = _replaced(getattr(part, path[0]), rest, value, name)
    return dataclasses.replace(part, **{path[0]: value})


@dataclass(frozen=True)
class Cell:
    """One setting with one seed."""

    setting: Any
    seed: int
    label: str = field(compare=False)
    """The first row that asked for it."""

    @property
    def key(self) -> str:
        """A short name that only equal cells share."""
        return f"{setting_key(self.setting)}/seed-{self.seed}"


def setting_key(setting: Any) -> str:
    """A short digest of a setting."""
    return sha256_of_json(to_plain(setting))[:16]


class Runner(Protocol):
    """How cells are run and where they are kept."""

    def prepare(self, settings: Sequence[Any]) -> None:
        """Make whatever cells of these settings share, or go on making it."""
        ...

    def find(self, cell: Cell) -> Result | None:
        """The result of a cell that was run before."""
        ...

    def job(self, cell: Cell) -> Job:
        """The work of a cell; its result is the cell's. Killed, the next call goes on."""
        ...


def cells_of(studies: Sequence[Study], base: Any, seeds: Sequence[int]) -> dict[str, Cell]:
    """The different cells of some studies by key, all of one seed before those of the next.

    In this order a grid that is stopped early has whole tables of fewer seeds.
    """
    cells: dict[str, Cell] = {}
    for seed in seeds:
        for study in studies:
            for variation in study.variations:
                label = f"{study.name} {variation.name}, seed {seed}"
                cell = Cell(changed(base, variation.changes), seed, label)
                cells.setdefault(cell.key, cell)
    return cells


def run_grid(
    studies: Sequence[Study],
    base: Any,
    seeds: Sequence[int],
    runner: Runner,
    processes: int | None = None,
    quiet: bool = False,
) -> Table:
    """Run the cells that were not run before; the results of all, by study and variation."""
    cells = cells_of(studies, base, seeds)
    settings = {setting_key(cell.setting): cell.setting for cell in cells.values()}
    runner.prepare(list(settings.values()))
    results = {key: runner.find(cell) for key, cell in cells.items()}
    missing = [key for key, result in results.items() if result is None]
    jobs = [runner.job(cells[key]) for key in missing]
    results.update(zip(missing, run_jobs(jobs, processes, quiet, overall="cells"), strict=True))

    def of(variation: Variation) -> list[Result]:
        setting = changed(base, variation.changes)
        found = [results[Cell(setting, seed, "").key] for seed in seeds]
        return [result for result in found if result is not None]

    return {s.name: {v.name: of(v) for v in s.variations} for s in studies}
