"""The log of a run: one JSON object a line, appended, and cut back when a run is resumed."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from arra.files import atomic_file, to_plain


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The entries of a log, up to the first line that is not one (a write that was cut short)."""
    entries: list[dict[str, Any]] = []
    path = Path(path)
    if not path.exists():
        return entries
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                break
            if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
                break
            entries.append(entry)
    return entries


class History:
    """Entries of `path` with a step of at most `step`, to which more can be appended.

    Entries have "step" (updates done) and either metrics, or "validation" with its results.
    """

    def __init__(self, path: Path, step: int):
        self.entries = [entry for entry in read_log(path) if entry["step"] <= step]
        with atomic_file(path) as temporary:
            temporary.write_text("".join(map(_line, self.entries)), encoding="utf-8")
        self._handle = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def append(self, entry: dict[str, Any]) -> None:
        """Add an entry; numbers that are not finite become null, for JSON has no nan."""
        entry = _finite(to_plain(entry))
        self.entries.append(entry)
        self._handle.write(_line(entry))
        self._handle.flush()

    def sync(self) -> None:
        """Force what was appended to the disk: a checkpoint must not be newer than its log."""
        os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Close the file."""
        self._handle.close()


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
