"""Independent jobs side by side: on a CPU two processes of one thread beat one process of two.

A job is a function of picklable arguments that keeps its own work on disk and goes on where it
stopped. Its progress reaches the parent through a small file, so that all jobs share one display.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from arra.environment import usable_cores
from arra.progress import PROGRESS_FILE, Display, lines


@dataclass(frozen=True)
class Job:
    """One piece of work: `function(**arguments)`, shown under `label`."""

    label: str
    function: Callable[..., Any]
    """A function of a module (it must be importable in another process)."""
    arguments: dict[str, Any] = field(default_factory=dict)


def processes_for(jobs: int) -> int:
    """How many processes to use for `jobs` jobs: one per core, or one where a GPU does the work."""
    import torch

    return 1 if torch.cuda.is_available() else max(1, min(jobs, usable_cores()))


def run_jobs(
    jobs: Sequence[Job], processes: int | None = None, quiet: bool = False, overall: str = ""
) -> list[Any]:
    """Results of the jobs, in their order. The first error ends the call, after all have stopped.

    With one process (or one job) they run here, one after another. `overall` names what jobs are
    ("cells"): then it is also shown how many are done, and about how long the others will take.
    """
    count = min(processes_for(len(jobs)) if processes is None else processes, len(jobs))
    if count <= 1:
        return _in_turn(jobs, overall, quiet)
    threads = max(1, usable_cores() // count)
    with tempfile.TemporaryDirectory() as scratch, _environment(OMP_NUM_THREADS=str(threads)):
        files = [Path(scratch) / f"{number}.json" for number in range(len(jobs))]
        with (
            ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool,
            Display(quiet=quiet, keep=not overall) as display,
        ):
            futures = [
                pool.submit(_work, job.function, job.arguments, threads, file)
                for job, file in zip(jobs, files, strict=True)
            ]
            try:
                _follow(jobs, futures, files, display, overall)
            except BaseException:
                for future in futures:
                    future.cancel()
                raise
    return [future.result() for future in futures]


def _in_turn(jobs: Sequence[Job], overall: str, quiet: bool) -> list[Any]:
    task = lines(overall, len(jobs), quiet or not overall)
    results = []
    for job in jobs:
        results.append(job.function(**job.arguments))
        task.advance(note=job.label)
    return results


def _work(function: Callable[..., Any], arguments: dict[str, Any], threads: int, file: Path) -> Any:
    """What a worker process runs."""
    import torch

    torch.set_num_threads(threads)
    os.environ[PROGRESS_FILE] = str(file)
    try:
        return function(**arguments)
    finally:
        del os.environ[PROGRESS_FILE]


def _follow(
    jobs: Sequence[Job],
    futures: Sequence[Future],
    files: Sequence[Path],
    display: Display,
    overall: str,
) -> None:
    """Show what the jobs report until all are done; raise the first error."""
    waiting, began = set(futures), time.monotonic()
    while waiting:
        done, waiting = wait(waiting, timeout=0.5, return_when="FIRST_EXCEPTION")
        if overall:
            ready = len(jobs) - len(waiting)
            left = (time.monotonic() - began) / max(ready, 1) * len(waiting)
            note = f"about {left / 60:.0f} min left" if ready else ""
            state = {"stage": "done", "done": ready, "total": len(jobs), "note": note}
            display.show(overall, state, finished=False)
        for job, future, file in zip(jobs, futures, files, strict=True):
            display.show(job.label, _read(file), finished=future.done())
        for future in done:
            if (error := future.exception()) is not None:
                raise error


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None


class _environment:
    """Environment variables that child processes are started with."""

    def __init__(self, **values: str):
        self.values, self.before = values, {name: os.environ.get(name) for name in values}

    def __enter__(self) -> None:
        os.environ.update(self.values)

    def __exit__(self, *error: object) -> None:
        for name, value in self.before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Stopwatch:
    """Seconds by stage, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, stage: str) -> None:
        """The time since the last lap (or the beginning) was spent on `stage`."""
        now = time.monotonic()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
