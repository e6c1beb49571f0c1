"""`arra info`: versions and machine, or what a folder is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tyro.conf import Positional


def command(path: Positional[Path | None] = None, json: bool = False) -> None:
    """Show versions and machine, or what a checkpoint, codec, store, run or result is.

    Args:
        path: A folder or file that arra made. Without it: versions and machine.
        json: Print JSON for programs.
    """
    from json import dumps

    values = _about() if path is None else _described(path)
    if json:
        print(dumps(values, indent=2, ensure_ascii=False))
    else:
        for line in _lines(values):
            print(line)


def _about() -> dict[str, Any]:
    from arra.environment import machine_info, versions

    return {"versions": versions(), "machine": dict(machine_info())}


def _described(path: Path) -> dict[str, Any]:
    from arra.inspection import describe

    return describe(path)


def _lines(values: dict[str, Any], indent: str = "") -> list[str]:
    """Nested values as an indented outline."""
    lines = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {_plain(value)}")
    return lines


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return str(value)
