"""Cells on digit scenes: a bench, a plan of training, an alignment or none, and a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arra.experiments.arms import Arm, JudgePlan, TrainingPlan, arm_job, judged_arm
from arra.experiments.bench import Bench, BenchConfig, build_bench
from arra.experiments.grid import Cell, Result, setting_key
from arra.experiments.parallel import Job
from arra.settings import AlignmentConfig


@dataclass(frozen=True)
class SceneSetting:
    """Everything that the result of a cell depends on but its seed."""

    bench: BenchConfig
    """Scenes, codec, reader, encoder, store. It has seeds of its own: cells share it."""
    plan: TrainingPlan
    """Model, batches, loop."""
    judge: JudgePlan
    """How the trained model is judged."""
    alignment: AlignmentConfig | None = None
    """Representation alignment, or None for next-token prediction alone."""
    shuffled: bool = False
    """Control: every picture is aligned with another picture's features."""

    @property
    def arm(self) -> Arm:
        """The arm without a name: rows of several studies may be this cell."""
        return Arm("cell", "", self.alignment, shuffled=self.shuffled)


class SceneRunner:
    """Runs cells in a folder: `benches/` are shared by cells, `cells/` are kept by their digest."""

    def __init__(self, folder: str | Path, processes: int | None = None, quiet: bool = False):
        self.folder, self.processes, self.quiet = Path(folder), processes, quiet
        self._benches: dict[Path, Bench] = {}  # those that `prepare` opened

    def prepare(self, settings: Sequence[SceneSetting]) -> None:
        """Build every bench; what benches have in common is made once."""
        for config in {setting_key(s.bench): s.bench for s in settings}.values():
            folder = self._bench_folder(config)
            like = [other for other in sorted(folder.parent.glob("*")) if other != folder]
            self._benches[folder] = build_bench(
                config, folder, processes=self.processes, quiet=self.quiet, like=like
            )

    def find(self, cell: Cell) -> Result | None:
        """What an earlier call left, if bench and settings are the same."""
        setting: SceneSetting = cell.setting
        bench = self._benches[self._bench_folder(setting.bench)]
        folder = self._cell_folder(cell)
        return judged_arm(bench, setting.arm, setting.plan, setting.judge, cell.seed, folder)

    def job(self, cell: Cell) -> Job:
        """Train and judge."""
        setting: SceneSetting = cell.setting
        bench = self.bench(setting)
        folder = self._cell_folder(cell)
        return arm_job(
            cell.label, bench, setting.arm, setting.plan, setting.judge, cell.seed, folder
        )

    def bench(self, setting: SceneSetting) -> Bench:
        """The bench of a setting, built by `prepare`."""
        return Bench(setting.bench, self._bench_folder(setting.bench))

    def _bench_folder(self, config: BenchConfig) -> Path:
        return self.folder / "benches" / setting_key(config)

    def _cell_folder(self, cell: Cell) -> Path:
        return self.folder / "cells" / cell.key
