"""Cells of a grid on a prepared store: each trains one model and measures held-out bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from arra.data.store import PreparedStore
from arra.errors import InputError
from arra.experiments.grid import Cell, Result
from arra.experiments.parallel import Job
from arra.experiments.study_results import Reading
from arra.files import read_json, write_json
from arra.jobs.training import Training, run_training, store_digest
from arra.settings import AlignmentConfig

MEASURES: tuple[Reading, ...] = (
    (
        "held-out bits per token",
        "lower",
        lambda r: r["training"]["validation"][-1]["held_out_bits"],
    ),
)


@dataclass(frozen=True)
class StoreSetting:
    """Everything that the result of a cell depends on but its seed and the content of the store."""

    training: Training
    """Store, model, batches, loop. Its alignment, folder and seeds are those of the cell."""
    alignment: AlignmentConfig | None = None
    """Representation alignment, or None for next-token prediction alone."""
    shuffled: bool = False
    """Control: every picture is aligned with another picture's features."""

    def __post_init__(self) -> None:
        if self.training.held_out is None and self.training.held_out_share <= 0:
            raise InputError("StoreSetting.training: nothing is held out, so nothing is measured")


class StoreRunner:
    """Runs cells in `folder`/cells; a cell of a store that has changed since is run again."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def prepare(self, settings: Sequence[StoreSetting]) -> None:
        """Look whether the stores are there."""
        for store in {setting.training.store for setting in settings}:
            PreparedStore.open(store)

    def find(self, cell: Cell) -> Result | None:
        """What an earlier call left, if the store is the same."""
        try:
            found = read_json(self._folder(cell) / "cell.json")
        except InputError:
            return None  # not run yet
        return found if found["store"] == _digest(cell.setting) else None

    def job(self, cell: Cell) -> Job:
        """Train and measure."""
        arguments = {"setting": cell.setting, "seed": cell.seed, "folder": self._folder(cell)}
        return Job(cell.label, run_cell, arguments)

    def _folder(self, cell: Cell) -> Path:
        return self.folder / "cells" / cell.key


def run_cell(setting: StoreSetting, seed: int, folder: Path) -> Result:
    """Train one cell, or go on; its held-out bits at every validation. Leaves `cell.json`."""
    asked = setting.training
    job = replace(
        asked,
        out=folder,
        align=() if setting.alignment is None else (setting.alignment,),
        batch=replace(asked.batch, seed=seed, shuffle_features=setting.shuffled),
        training=replace(asked.training, seed=seed),
        samples=0,
    )
    trained = run_training(job)
    facts = {**trained.summary(), "validation": trained.report.validation}
    result = {"store": _digest(setting), "training": facts}
    write_json(folder / "cell.json", result)
    return read_json(folder / "cell.json")


def _digest(setting: StoreSetting) -> str:
    return store_digest(PreparedStore.open(setting.training.store))
