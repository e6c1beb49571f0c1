"""The folder of a store while it is made: whose it is, and what an interruption left there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arra.data.make import WORK, Job, ShardResult
from arra.data.report import Remarks
from arra.data.store import (
    CODEC,
    MANIFEST,
    REPORT,
    SHARDS,
    TOKENIZER,
    Provenance,
    Settings,
    differences,
    settings_from_plain,
)
from arra.errors import InputError, ProvenanceError
from arra.files import read_json, write_json


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One preparation of a folder at a time. The lock goes with the process, however it ends."""
    from filelock import FileLock, Timeout

    if folder.exists():
        _refuse_foreign(folder)
    work = folder / WORK
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(work / "lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{folder}: another process is preparing it; wait for its end") from None
    try:
        yield
    finally:
        if not (work / "settings.json").exists():  # finished, or refused before it began
            shutil.rmtree(work, ignore_errors=True)
        lock.release()


def _refuse_foreign(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file, expected a folder")
    if (folder / WORK).is_dir() or (folder / MANIFEST).is_file():
        return
    if other := sorted(entry.name for entry in folder.iterdir()):
        raise InputError(f"{folder}: holds other files ({other[0]}); name an empty or new folder")


def _settings_there(folder: Path) -> Settings | None:
    """The settings of what is in the folder, begun or finished."""
    begun = folder / WORK / "settings.json"
    if begun.is_file():
        try:
            return settings_from_plain(read_json(begun))
        except (KeyError, TypeError) as error:
            raise InputError(f"{begun}: not the settings of a preparation ({error!r})") from error
    finished = folder / MANIFEST
    return Provenance.read(finished).settings if finished.is_file() else None


def claim(job: Job, overwrite: bool) -> None:
    """Make the folder this job's: refuse or replace other settings, sweep what a crash left.

    Raises `ProvenanceError`, one line for every setting that differs, unless `overwrite`.
    """
    folder = job.folder
    try:
        there = _settings_there(folder)
        differing = [] if there is None else differences(there, job.settings)
    except InputError as error:
        if not overwrite:
            raise
        differing = [str(error)]
    if differing and not overwrite:
        lines = "\n  ".join(differing)
        raise ProvenanceError(
            f"{folder}: holds a store of other settings:\n  {lines}\nName another folder, or "
            "replace the store with overwrite=True."
        )
    # First of all: from here on, the folder belongs to these settings, even if we are killed now.
    write_json(folder / WORK / "settings.json", job.settings)
    if differing:
        (folder / MANIFEST).unlink(missing_ok=True)
        (folder / REPORT).unlink(missing_ok=True)
        for name in (SHARDS, CODEC, TOKENIZER, f"{WORK}/done"):
            shutil.rmtree(folder / name, ignore_errors=True)
    elif (folder / MANIFEST).is_file():
        _recall(job)
    sweep(folder)


def sweep(folder: Path) -> None:
    """Remove the temporary files of processes that were killed."""
    for left in (*folder.glob(".*.tmp"), *folder.glob(".*.old"), *folder.glob(f"{SHARDS}/.*.tmp")):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _recall(job: Job) -> None:
    """Note the shards of a finished store as finished, so that only damaged ones are made again."""
    try:
        entries = Provenance.read(job.folder / MANIFEST).shards
        report = read_json(job.folder / REPORT)
        remarks = Remarks.from_plain({"bad": report["rows"], "notes": report["notes"]})
    except (InputError, KeyError, TypeError):
        return  # nothing to go by: all shards are made again
    for number, entry in zip(job.shards, entries, strict=False):
        mine = remarks.within(entry.start, entry.stop)
        if len(mine.bad) + entry.rows == entry.stop - entry.start:
            job.note(number, ShardResult(entry, mine))
