"""Captioned pictures in a folder: `.txt` files of the same name, or one file that lists them all.

What is in the folder is not trusted: a name may lead out of it, be a link, a pipe or a folder, or
not be text. Listing names every such case; reading looks again, since files change.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from arra.data.captions import (
    CAPTION_FIELDS,
    IMAGE_FIELDS,
    Record,
    clean_caption,
    csv_records,
    field_of,
    jsonl_records,
    questions_of,
)
from arra.data.decode import SUFFIXES, decode
from arra.data.rows import BadRow, Limits, PictureSource, Question, Row, listed_questions
from arra.errors import InputError


@dataclass(frozen=True, slots=True)
class Entry:
    """A listed picture: its path below the folder (with /), its caption, its size and time."""

    name: str
    caption: str
    size: int
    modified: int
    questions: tuple[Question, ...] = ()


class FolderSource(PictureSource):
    """Pictures that are single files below one folder."""

    def __init__(
        self, kind: str, root: Path, entries: list[Entry], problems: list[BadRow], limits: Limits
    ):
        self.kind, self.root, self.limits = kind, root, limits
        self.entries, self.problems = entries, tuple(problems)
        self.asks = any(entry.questions for entry in entries)

    def __len__(self) -> int:
        return len(self.entries)

    def read(self, index: int) -> Row:
        entry = self.entries[self._checked(index)]
        stat_inside(self.root, entry.name)
        data = read_bytes(self.root / entry.name, entry.name, self.limits.max_bytes)
        image, notes = decode(data, entry.name, self.limits)
        return Row(entry.name, image, entry.caption, notes, entry.questions)

    def identity(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for entry in self.entries:
            line = [entry.name, entry.caption, entry.size, entry.modified]
            digest.update(json.dumps(line).encode("ascii"))
        if asked := listed_questions(entry.questions for entry in self.entries):
            digest.update(json.dumps(asked).encode("ascii"))
        return {
            "kind": self.kind,
            "path": str(self.root),
            "rows": len(self),
            "sha256": digest.hexdigest(),
            "limits": self.limits.identity(),
        }


def read_bytes(path: Path, name: str, most: int) -> bytes:
    """The bytes of a regular file of at most `most` bytes; `BadRow` in every other case."""
    try:
        # Without O_NONBLOCK, opening a pipe would wait for ever for its writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadRow(name, "not a regular file")
            if status.st_size > most:
                detail = f"{status.st_size} > {most} bytes"
                raise BadRow(name, "the file is larger than allowed", detail)
            return file.read(most + 1)
    except FileNotFoundError as error:
        raise BadRow(name, "there is no such file") from error
    except PermissionError as error:
        raise BadRow(name, "the file may not be read (permission denied)") from error
    except OSError as error:
        raise BadRow(name, "the file cannot be read", error.strerror or str(error)) from error


_BINARY = getattr(os, "O_BINARY", 0)


def stat_inside(root: Path, name: str) -> os.stat_result:
    """The status of the regular file `name` below `root`; `BadRow` if it is not that."""
    if not name:
        raise BadRow("(no name)", "the row names no picture")
    if "\0" in name or any("\ud800" <= char <= "\udfff" for char in name):
        raise BadRow(name, "its name is not valid text")
    if os.path.isabs(name) or ".." in name.replace("\\", "/").split("/"):
        raise BadRow(name, "its path leaves the folder")
    path = os.path.join(root, name)
    try:
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
            raise BadRow(name, "it is a link that leaves the folder")
        status = os.stat(path)
    except FileNotFoundError as error:
        dangling = os.path.islink(path)
        reason = "it is a link that leads nowhere" if dangling else "there is no such file"
        raise BadRow(name, reason) from error
    except OSError as error:
        raise BadRow(name, "the file cannot be read", error.strerror or str(error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise BadRow(name, "not a regular file")
    return status


def walk(root: Path) -> tuple[list[str], list[BadRow]]:
    """Names of all files below `root`, sorted, and what could not be walked.

    Hidden files and folders are left out. Links to folders are not followed, for they may lead out
    of the folder or in circles.
    """
    names: list[str] = []
    problems: list[BadRow] = []

    def unreadable(error: OSError) -> None:
        name = os.path.relpath(error.filename, root)
        problems.append(BadRow(name, "the folder cannot be read", error.strerror or ""))

    for folder, below, files in os.walk(root, onerror=unreadable):
        below[:] = [name for name in below if not _hidden(name)]
        for name in [*below, *(name for name in files if not _hidden(name))]:
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, root).replace(os.sep, "/")
            if name in below and not os.path.islink(path):
                continue
            if name in below:
                problems.append(BadRow(relative, "a link to a folder is not followed"))
            elif any("\ud800" <= char <= "\udfff" for char in relative):
                problems.append(BadRow(relative, "its name is not UTF-8"))
            else:
                names.append(relative)
    return sorted(names), sorted(problems, key=lambda problem: problem.name)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def is_picture(name: str) -> bool:
    """Whether the ending of a file's name is that of a picture format that is read."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def pairs_source(root: Path, limits: Limits) -> FolderSource:
    """Every picture below `root` with the text file of the same name, `a/b.png` with `a/b.txt`."""
    names, problems = walk(root)
    by_stem: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        stem, suffix = os.path.splitext(name)
        suffix = suffix.lower()
        role = "caption" if suffix == ".txt" else "picture" if suffix in SUFFIXES else "other"
        # One and the same name can be spelt in two ways in Unicode; file systems differ in theirs.
        by_stem[unicodedata.normalize("NFC", stem)][role].append(name)
    entries = []
    for stem in sorted(by_stem):
        files = by_stem[stem]
        for extra in [*files["picture"][1:], *files["caption"][1:]]:
            first = files["picture"][0] if extra in files["picture"] else files["caption"][0]
            problems.append(BadRow(extra, "another file has the same name", first))
        try:
            entry = _pair(root, files, limits)
        except BadRow as bad:
            problems.append(bad)
        else:
            entries.extend([entry] if entry else [])
    return FolderSource("folder", root, entries, problems, limits)


def _pair(root: Path, files: dict[str, list[str]], limits: Limits) -> Entry | None:
    """The row of one name, or None where the files of this name are neither picture nor caption."""
    if not files["picture"] and not files["caption"]:
        return None
    if not files["picture"]:
        if files["other"]:
            detail = ", ".join(sorted(SUFFIXES))
            raise BadRow(files["other"][0], "its format is not read", f"formats: {detail}")
        raise BadRow(files["caption"][0], "the caption has no picture of the same name")
    picture = files["picture"][0]
    if not files["caption"]:
        raise BadRow(picture, "the picture has no caption", "expected a .txt of the same name")
    text = files["caption"][0]
    stat_inside(root, text)
    # Room for four bytes a character, a byte order mark and some white space around the text.
    raw = read_bytes(root / text, text, 4 * limits.max_caption + 1024)
    caption = clean_caption(raw, text, limits)
    status = stat_inside(root, picture)
    return Entry(picture, caption, status.st_size, status.st_mtime_ns)


def records_of(
    path: Path, split: str | None
) -> tuple[list[tuple[str, Record]], list[BadRow], list[Record]]:
    """The rows of a JSON-lines or CSV file that belong to `split` (None: all of them).

    Returns (name of the row, its fields) for each, the rows that are broken, and the fields of the
    rows of other splits.
    """
    records = csv_records(path) if path.suffix.lower() == ".csv" else jsonl_records(path)
    rows: list[tuple[str, Record]] = []
    problems: list[BadRow] = []
    elsewhere: list[Record] = []
    splits = set()
    for line, record in records:
        if isinstance(record, BadRow):
            problems.append(record)
            continue
        splits.add(str(record.get("split")))
        if split is None or record.get("split") == split:
            rows.append((f"{path.name} line {line}", record))
        else:
            elsewhere.append(record)
    if split is not None and splits and split not in splits:
        there = ", ".join(sorted(splits - {"None"})) or "none"
        raise InputError(f"{path}: no row has split {split!r}; there are: {there}")
    return rows, problems, elsewhere


def listed_source(
    path: Path,
    limits: Limits,
    image_field: str | None,
    caption_field: str | None,
    split: str | None,
) -> FolderSource:
    """The pictures that a `captions.jsonl` or `metadata.csv` names, relative to its own folder."""
    root = path.parent
    listing = read_listing(
        path, limits, image_field, caption_field, split, lambda name: stat_inside(root, name)
    )
    entries = [
        Entry(name, caption, status.st_size, status.st_mtime_ns, questions)
        for name, caption, status, questions in listing.rows
    ]
    names, unwalked = walk(root)
    problems = [*listing.problems, *unwalked, *listing.unlisted(names)]
    kind = "csv" if path.suffix.lower() == ".csv" else "jsonl"
    return FolderSource(kind, root, entries, problems, limits)


Place = TypeVar("Place")


@dataclass(frozen=True)
class Listing(Generic[Place]):
    """What a listing says of the pictures of one split."""

    path: Path
    rows: list[tuple[str, str, Place, tuple[Question, ...]]]
    """Name, caption, place and questions of every row that can be used."""
    problems: list[BadRow]
    """Rows that cannot."""
    mentioned: set[str]
    """All names in it, those of other splits included."""

    def unlisted(self, names: Iterable[str]) -> list[BadRow]:
        """Those of the `names` that are pictures, but stand nowhere in the listing."""
        return [
            BadRow(name, "the picture has no caption", f"no row of {self.path.name} names it")
            for name in names
            if is_picture(name) and name not in self.mentioned
        ]


def read_listing(
    path: Path,
    limits: Limits,
    image_field: str | None,
    caption_field: str | None,
    split: str | None,
    find: Callable[[str], Place],
) -> Listing[Place]:
    """The rows of a listing; `find` gives the place of a name, or raises `BadRow`."""
    records, problems, elsewhere = records_of(path, split)
    mentioned = set(_names(elsewhere, image_field))
    lines: dict[str, str] = {}
    rows = []
    for where, record in records:
        mentioned.update(_names([record], image_field))
        try:
            name, caption, place = _listed(where, record, image_field, caption_field, limits, find)
            questions = questions_of(record, path, where, limits)
            if name in lines:
                detail = f"first in {lines[name]}"
                raise BadRow(where, "the same picture is listed twice", detail)
        except BadRow as bad:
            problems.append(bad)
        else:
            lines[name] = where
            rows.append((name, caption, place, questions))
    return Listing(path, rows, problems, mentioned)


def _names(records: list[Record], image_field: str | None) -> Iterator[str]:
    for record in records:
        for field in (image_field,) if image_field else IMAGE_FIELDS:
            if isinstance(record.get(field), str):
                yield plain_name(record[field])


def plain_name(name: str) -> str:
    """`./a//b.png` as `a/b.png`, so that a picture has one name."""
    return os.path.normpath(name).replace(os.sep, "/") if name and "\0" not in name else name


def _listed(
    where: str,
    record: Record,
    image_field: str | None,
    caption_field: str | None,
    limits: Limits,
    find: Callable[[str], Place],
) -> tuple[str, str, Place]:
    name = field_of(record, image_field, IMAGE_FIELDS, where)
    if not isinstance(name, str):
        reason = "the name of the picture is not text"
        raise BadRow(where, reason, f"it is {type(name).__name__}")
    caption = clean_caption(field_of(record, caption_field, CAPTION_FIELDS, where), where, limits)
    try:
        place = find(name)
    except BadRow as bad:
        # The line is what the reader has to mend, so it is the line that gets named.
        raise BadRow(where, bad.reason, name) from bad
    return plain_name(name), caption, place
