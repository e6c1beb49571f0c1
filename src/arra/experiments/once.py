"""Work that is done once: its folder remembers what it was made with."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from arra.errors import InputError
from arra.files import atomic_folder, read_json, sha256_of_json, to_plain, write_json

RECORD = "report.json"
"""In the folder: the digest of the settings, and the report."""


def once(
    folder: Path,
    settings: Any,
    make: Callable[[Path], dict[str, Any]],
    like: Sequence[Path] = (),
) -> dict[str, Any]:
    """The report of `make`, which fills `folder`, unless it was filled with the same settings.

    A folder of the same name that one of the folders `like` holds, made with the same settings, is
    copied instead.
    """
    digest = sha256_of_json(to_plain(settings))
    if _made_with(folder) == digest:
        return dict(read_json(folder / RECORD)["report"])
    for other in like:
        if _made_with(other / folder.name) == digest:
            with atomic_folder(folder) as target:
                shutil.copytree(other / folder.name, target, dirs_exist_ok=True)
            return dict(read_json(folder / RECORD)["report"])
    with atomic_folder(folder) as target:
        report = to_plain(make(target))
        write_json(target / RECORD, {"settings": digest, "report": report})
    return dict(report)


def _made_with(folder: Path) -> str | None:
    """The digest of the settings that filled `folder`, None if it is not there."""
    try:
        return read_json(folder / RECORD).get("settings")
    except InputError:
        return None
