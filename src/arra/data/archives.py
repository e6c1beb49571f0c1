"""Captioned pictures in a `.tar`, listed by a `captions.jsonl` or CSV file beside it.

The archive is read where it lies: nothing is unpacked, so no name in it can lead anywhere. Only
plain files count; what is a link, a device or named like a way out of the archive is reported.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arra.data.decode import decode
from arra.data.folders import plain_name, read_listing
from arra.data.rows import BadRow, Limits, PictureSource, Question, Row, listed_questions
from arra.errors import InputError

# What tarfile raises on damaged input; it is not documented as one kind.
_ARCHIVE_ERRORS = (tarfile.TarError, OSError, ValueError, EOFError, OverflowError, IndexError)


@dataclass(frozen=True, slots=True)
class Member:
    """A plain file in the archive: where its bytes begin, and how many there are."""

    offset: int
    size: int


class ArchiveSource(PictureSource):
    """Pictures that are files of one uncompressed archive."""

    def __init__(
        self,
        path: Path,
        entries: list[tuple[str, str, Member, tuple[Question, ...]]],
        problems: list[BadRow],
        limits: Limits,
    ):
        """`entries` are name, caption, place and questions of every row."""
        self.path, self.limits = path, limits
        self.entries, self.problems = entries, tuple(problems)
        self.asks = any(questions for *_, questions in entries)
        status = path.stat()
        self._status = (status.st_size, status.st_mtime_ns)

    def __len__(self) -> int:
        return len(self.entries)

    def read(self, index: int) -> Row:
        name, caption, member, questions = self.entries[self._checked(index)]
        if member.size > self.limits.max_bytes:
            detail = f"{member.size} > {self.limits.max_bytes} bytes"
            raise BadRow(name, "the file is larger than allowed", detail)
        try:
            with open(self.path, "rb") as file:
                file.seek(member.offset)
                data = file.read(member.size)
        except OSError as error:
            raise BadRow(name, "the archive cannot be read", error.strerror or "") from error
        if len(data) < member.size:
            raise BadRow(name, "the archive is cut off", f"{len(data)} of {member.size} bytes")
        image, notes = decode(data, name, self.limits)
        return Row(name, image, caption, notes, questions)

    def identity(self) -> dict[str, Any]:
        entries = [[name, caption, m.offset, m.size] for name, caption, m, _ in self.entries]
        asked = listed_questions(questions for *_, questions in self.entries)
        listing = json.dumps([self._status, entries, *asked])
        return {
            "kind": "tar",
            "path": str(self.path),
            "rows": len(self),
            "sha256": hashlib.sha256(listing.encode("ascii")).hexdigest(),
            "limits": self.limits.identity(),
        }


def archive_source(
    path: Path,
    listing: Path,
    limits: Limits,
    image_field: str | None,
    caption_field: str | None,
    split: str | None,
) -> ArchiveSource:
    """The pictures of the archive `path` that the file `listing` names.

    Raises:
        InputError: it is no uncompressed tar, the listing cannot be read, or it has no such split.
    """
    members, problems = _members(path)

    def find(name: str) -> Member:
        if (plain := plain_name(name)) not in members:
            raise BadRow(name, "the archive has no such file")
        return members[plain]

    found = read_listing(listing, limits, image_field, caption_field, split, find)
    problems = [*found.problems, *problems, *found.unlisted(sorted(members))]
    return ArchiveSource(path, found.rows, problems, limits)


def _members(path: Path) -> tuple[dict[str, Member], list[BadRow]]:
    """The plain files of an archive by name, and what in it cannot be used."""
    found: dict[str, Member] = {}
    problems: list[BadRow] = []
    try:
        # "r:" reads no compressed archive: places in one cannot be found without unpacking it
        with tarfile.open(path, "r:") as archive:
            _list(archive, found, problems)
    except _ARCHIVE_ERRORS as error:
        if not found:
            raise InputError(
                f"{path}: not an uncompressed tar that can be read ({error}); unpack a "
                "compressed one with gunzip or the like"
            ) from error
        problems.append(BadRow(path.name, "the archive is cut off or damaged", str(error)[:200]))
    return found, problems


def _list(archive: tarfile.TarFile, found: dict[str, Member], problems: list[BadRow]) -> None:
    for member in archive:
        name = member.name
        if member.isdir():
            continue
        if any("\ud800" <= char <= "\udfff" for char in name):
            problems.append(BadRow(name, "its name is not UTF-8"))
        elif os.path.isabs(name) or ".." in name.replace("\\", "/").split("/"):
            problems.append(BadRow(name, "its path leaves the archive"))
        elif not member.isreg() or member.issparse():
            problems.append(BadRow(name, "not a regular file"))
        elif (plain := plain_name(name)) in found:
            problems.append(BadRow(plain, "another file has the same name"))
        else:
            found[plain] = Member(member.offset_data, member.size)
