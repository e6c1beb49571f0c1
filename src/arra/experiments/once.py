"""Work that is done once: its folder remembers what it was made with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from arra.errors import InputError
from arra.files import atomic_folder, read_json, sha256_of_json, to_plain, write_json

RECORD = "report.json"
"""In the folder: the digest of the settings, and the report."""


def once(folder: Path, settings: Any, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """The report of `make`, which fills `folder`, unless it was filled with the same settings."""
    digest = sha256_of_json(to_plain(settings))
    try:
        if (there := read_json(folder / RECORD)).get("settings") == digest:
            return dict(there["report"])
    except InputError:
        pass  # not made yet
    with atomic_folder(folder) as target:
        report = to_plain(make(target))
        write_json(target / RECORD, {"settings": digest, "report": report})
    return dict(report)
