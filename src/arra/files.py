"""Files that are never half-written: atomic files, folders and JSON; and content hashes."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import glob
import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from arra.errors import InputError


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that a rename after it cannot be seen before it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` at once if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it becomes `path` in one step if the block succeeds.

    An existing folder at `path` is replaced. Where the system can exchange two names (Linux, on the
    usual file systems) there is no instant without it; elsewhere there is one, and `restore_folder`
    brings it back if the process is killed in it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    restore_folder(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        for entry in temporary.rglob("*"):
            _sync(entry)
        _sync(temporary)
        if not path.exists():
            os.replace(temporary, path)
        elif not _exchange(temporary, path):
            old = temporary.with_suffix(".old")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def restore_folder(path: Path) -> None:
    """Put back a folder that a killed `atomic_folder` had set aside; drop it if it was replaced."""
    for old in path.parent.glob(f".{glob.escape(path.name)}.????????.old"):
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, path)


_RENAME_EXCHANGE = 2
_HERE = -100  # AT_FDCWD: paths are relative to the working directory


def _exchange(first: Path, second: Path) -> bool:
    """Exchange what two names stand for, in one step; False where the system cannot."""
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:  # a C library without it
        return False
    done = renameat2(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _RENAME_EXCHANGE)
    if done == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):  # an old kernel, or file system
        return False
    raise OSError(number, os.strerror(number), str(second))


def to_plain(value: Any) -> Any:
    """`value` as JSON can hold it: dataclasses become dictionaries, paths strings, tuples lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    return value


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` (dataclasses allowed) as indented JSON, atomically."""
    text = json.dumps(to_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | Path, max_bytes: int = 64 << 20) -> Any:
    """The JSON in `path`; `InputError` when it is missing, larger than `max_bytes`, or not JSON."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise InputError(f"{path}: {size} bytes, more than the {max_bytes} allowed for JSON")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error


def sha256_of_json(value: Any) -> str:
    """Hex digest of the canonical JSON of `value`; equal settings give equal digests."""
    text = json.dumps(to_plain(value), sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_of_file(path: str | Path) -> str:
    """Hex digest of the bytes of a file, read in blocks."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
