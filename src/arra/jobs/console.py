"""What jobs share around their work: which device, and JSON or a table for whoever reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from arra.errors import InputError
from arra.files import to_plain


def choose_device(asked: str) -> str:
    """The device for "auto" (CUDA where there is one), or the one asked for if it exists."""
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=asked)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device: {asked!r} cannot be used here ({error})") from error
    return asked


def print_json(values: Any) -> None:
    """Values as JSON on the standard output; numbers that are not finite become null."""
    print(json.dumps(finite(to_plain(values)), indent=2, ensure_ascii=False, allow_nan=False))


class Ran(Protocol):
    """A training run that has ended, in one of its processes."""

    @property
    def is_main(self) -> bool: ...

    def summary(self) -> dict[str, Any]: ...


def print_run(trained: Ran, json: bool, lines: Callable[[dict[str, Any]], Sequence[str]]) -> None:
    """How a training run ended, by the process that speaks: its summary as JSON, or a line on the
    training and then what `lines` makes of it."""
    if not trained.is_main:
        return
    summary = trained.summary()
    if json:
        print_json(summary)
        return
    again = f" (from step {summary['resumed_from']})" if summary["resumed_from"] else ""
    print(
        f"{summary['steps']} steps{again} in {summary['seconds']:.0f} s, {summary['precision']}, "
        f"{summary['parameters']:,} parameters"
    )
    print("\n".join(lines(summary)))


def finite(value: Any) -> Any:
    """Plain values with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    odd = isinstance(value, float) and value - value != 0
    return None if odd else value


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """A table on the standard output."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns, title=escape(title) or None, title_justify="left")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console = Console()
    if not console.is_terminal:
        console.width = 160  # a file has room, and a wrapped name cannot be searched for
    console.print(table)


@contextmanager
def resumable(what: str) -> Iterator[None]:
    """Say on Ctrl-C that the same command goes on where it stopped."""
    import sys

    try:
        yield
    except KeyboardInterrupt:
        print(f"{what} stopped; run the same command again to go on", file=sys.stderr)
        raise
