"""The folder of `--save`: every picture that was served, whatever else fails."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arra.errors import InputError
from arra.files import atomic_file, sha256_of_json

log = logging.getLogger("arra.serving")


class Album:
    """Writes PNG files; their names are made of digests and seeds, never of what clients wrote."""

    def __init__(self, folder: Path):
        """`InputError` where the folder cannot be made or written to."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(folder / "probe") as temporary:
                temporary.write_bytes(b"")
            (folder / "probe").unlink()
        except OSError as error:
            raise InputError(f"--save {folder}: cannot be written to ({error.strerror})") from error

    def keep(self, png: bytes, label: Mapping[str, Any]) -> bool:
        """Write a picture with this label, whole or not at all; False, and a line in the log, where
        it cannot be written. The same label has the same file."""
        model = re.sub(r"[^\w.-]", "-", str(label["model"])).lstrip(".") or "model"
        name = f"{sha256_of_json(dict(label))[:16]}-{int(label['seed'])}.png"
        try:
            with atomic_file(self.folder / model / name) as temporary:
                temporary.write_bytes(png)
        except OSError as error:
            log.error("a picture could not be saved: %s", error.strerror or error)
            return False
        return True
