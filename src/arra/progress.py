"""Progress with time left for every long piece of work, on a terminal and in a log."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

QUIET = "ARRA_QUIET"
"""Environment variable that silences progress in a process and those that it starts."""
PROGRESS_FILE = "ARRA_PROGRESS_FILE"
"""Environment variable of a worker process: where it writes its progress instead of showing it."""

_console = Console(stderr=True)


class Task:
    """One piece of work of `total` units; call `advance` as it goes."""

    def __init__(self, label: str, total: int, quiet: bool = False):
        self.label, self.total, self.done, self.note = label, total, 0, ""
        self._quiet = quiet
        self._start = self._printed = time.monotonic()

    def advance(self, units: int = 1, note: str = "") -> None:
        """Report `units` more done; `note` (such as the loss) is shown beside the bar."""
        self.done += units
        self.note = note or self.note
        self._show()

    def _show(self) -> None:
        # A log gets a line every ten seconds, not a bar that redraws itself.
        now = time.monotonic()
        if self._quiet or (now - self._printed < 10 and self.done < self.total):
            return
        self._printed = now
        elapsed = now - self._start
        left = elapsed / max(self.done, 1) * (self.total - self.done)
        line = f"{self.label}: {self.done}/{self.total}, {elapsed:.0f} s, {left:.0f} s left"
        print(f"{line}  {self.note}".rstrip(), file=sys.stderr, flush=True)


class _Bar(Task):
    def __init__(self, label: str, total: int, progress: Progress):
        super().__init__(label, total)
        self._progress = progress
        self._task = progress.add_task(label, total=total, note="")

    def _show(self) -> None:
        self._progress.update(self._task, completed=self.done, note=self.note)


class _ToFile(Task):
    """Progress of a worker process, written where its parent looks."""

    def __init__(self, label: str, total: int, file: Path):
        super().__init__(label, total)
        self._file = file

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._printed < 0.5 and self.done < self.total:
            return
        self._printed = now
        state = {"stage": self.label, "done": self.done, "total": self.total, "note": self.note}
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text(json.dumps(state), encoding="utf-8")
        os.replace(temporary, self._file)


@contextmanager
def track(label: str, total: int, quiet: bool = False) -> Iterator[Task]:
    """Show progress of `total` units under `label`: a bar on a terminal, lines elsewhere.

    Nothing is shown with `quiet`, or where the environment variable ARRA_QUIET is set (but to 0).
    """
    if file := os.environ.get(PROGRESS_FILE):
        yield _ToFile(label, total, Path(file))
        return
    if quiet or _silenced() or not _console.is_terminal:
        yield lines(label, total, quiet)
        return
    with Progress(*_columns(), console=_console) as progress:
        yield _Bar(label, total, progress)


def lines(label: str, total: int, quiet: bool = False) -> Task:
    """Progress as lines on a terminal too: for work whose parts show bars of their own."""
    return Task(label, total, quiet or _silenced())


def _silenced() -> bool:
    return os.environ.get(QUIET, "0") not in ("", "0")


def _columns() -> tuple[Any, ...]:
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
    )


@contextmanager
def without_library_bars() -> Iterator[None]:
    """Within the block transformers and the hub show no bars of their own, which would break ours.

    For reading and writing files here; a download is worth a bar.
    """
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    # transformers asks the hub's switch when it is imported, and has one of its own from then on.
    hub = not are_progress_bars_disabled()
    library = sys.modules.get("transformers.utils.logging")
    own = hub if library is None else library.is_progress_bar_enabled()
    if library is not None:
        library.disable_progress_bar()
    disable_progress_bars()
    try:
        yield
    finally:
        library = sys.modules.get("transformers.utils.logging")
        if own and library is not None:
            library.enable_progress_bar()  # and the hub's
        if hub != (not are_progress_bars_disabled()):
            (enable_progress_bars if hub else disable_progress_bars)()


class Display:
    """Progress of several jobs that run side by side in other processes."""

    def __init__(self, quiet: bool = False, keep: bool = True):
        """`keep`: whether the bars of jobs that ended stay."""
        self._quiet, self._keep = quiet, keep
        self._bars: Progress | None = None
        self._tasks: dict[str, Any] = {}
        self._start = self._printed = time.monotonic()
        self._states: dict[str, str] = {}

    def __enter__(self) -> Self:
        if _console.is_terminal and not self._quiet:
            self._bars = Progress(*_columns(), console=_console)
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, label: str, state: dict[str, Any] | None, finished: bool) -> None:
        """Show the `state` that a job last wrote (None: it has not begun)."""
        if state is None or self._quiet:
            return
        if self._bars is not None:
            if label not in self._tasks:
                self._tasks[label] = (self._bars.add_task(label, note=""), "")
            task, stage = self._tasks[label]
            if stage != state["stage"]:
                self._bars.reset(
                    task, total=state["total"], description=f"{label}: {state['stage']}"
                )
                self._tasks[label] = (task, state["stage"])
            done = state["total"] if finished else state["done"]
            visible = self._keep or not finished
            self._bars.update(
                task, completed=done, total=state["total"], note=state["note"], visible=visible
            )
            return
        now = time.monotonic()
        if finished:
            self._states.pop(label, None)
        else:
            line = f"{label}: {state['stage']} {state['done']}/{state['total']} {state['note']}"
            self._states[label] = line.rstrip()
        if now - self._printed >= 10 and self._states:
            self._printed = now
            line = " | ".join(self._states.values())
            print(f"[{now - self._start:.0f} s] {line}", file=sys.stderr, flush=True)
