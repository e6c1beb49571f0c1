"""What there is to say about the rows of a source: which are bad and why, and when it is too much.

`Remarks` is the bookkeeping, for any range of rows; `RowReport` is that of one pass over a source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arra.data.rows import BadRow, Limits, PictureSource, Row
from arra.errors import InputError
from arra.files import to_plain, write_json

_SHOWN = 5  # rows named in a message; the saved report names all


@dataclass(frozen=True)
class BadEntry:
    """A row of the source that was left out."""

    row: int | None
    """Its index in the source, or None where the source itself left it out."""
    name: str
    reason: str
    detail: str = ""

    @classmethod
    def of(cls, row: int | None, error: Any) -> BadEntry:
        """From the error that a source raises: its `name`, its `reason`, its `detail` if any.

        Not the error itself, which holds, by its traceback, the bytes of the file.
        """
        parts = (error.name, error.reason, getattr(error, "detail", ""))
        # What is not Unicode (a file name of another age) is escaped: the report is UTF-8.
        return cls(row, *(str(p).encode("utf-8", "backslashreplace").decode() for p in parts))

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True)
class NoteEntry:
    """Something that the source decided about a good row, such as to use the first frame only."""

    row: int
    name: str
    note: str


@dataclass
class Remarks:
    """What is to be reported about some rows."""

    bad: list[BadEntry] = field(default_factory=list)
    notes: list[NoteEntry] = field(default_factory=list)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Remarks:
        """From JSON values."""
        return cls([BadEntry(**b) for b in plain["bad"]], [NoteEntry(**n) for n in plain["notes"]])

    def within(self, start: int, stop: int) -> Remarks:
        """Those about the rows [start, stop) of the source."""
        bad = [b for b in self.bad if b.row is not None and start <= b.row < stop]
        return Remarks(bad, [n for n in self.notes if start <= n.row < stop])

    def __iadd__(self, other: Remarks) -> Remarks:
        self.bad += other.bad
        self.notes += other.notes
        return self

    def refuse(self, row: int | None, error: Any) -> None:
        """Take in one bad row, by the error that names it."""
        self.bad.append(BadEntry.of(row, error))

    def note(self, row: int, name: str, notes: Iterable[str]) -> None:
        """Keep the notes on one good row."""
        self.notes += [NoteEntry(row, name, note) for note in notes]

    @property
    def counts(self) -> dict[str, int]:
        """Number of bad rows by reason, the most frequent first."""
        return dict(Counter(bad.reason for bad in self.bad).most_common())

    @property
    def reasons(self) -> str:
        """`counts` in words."""
        return ", ".join(f"{number} x {reason}" for reason, number in self.counts.items())

    def check(self, total: int, bad_share: float = Limits.bad_share) -> None:
        """Raise `InputError` if more than `bad_share` of `total` rows are bad.

        `total` counts all rows of the source (`PictureSource.total`), not only those read so far,
        so that the answer does not depend on whether the bad ones come first.
        """
        if len(self.bad) <= bad_share * total:
            return
        shown = "; ".join(str(bad) for bad in self.bad[:_SHOWN])
        raise InputError(
            f"{len(self.bad)} of {total} rows cannot be used, more than the share of "
            f"{bad_share:g} that bad_share allows. By reason: {self.reasons}. "
            f"The first: {shown}. Mend or remove these rows, or allow a larger share."
        )

    def to_dict(self, good: int) -> dict[str, Any]:
        """The report as plain JSON: numbers, counts by reason, every bad row, every note."""
        return {
            "good": good,
            "bad": len(self.bad),
            "reasons": self.counts,
            "rows": to_plain(self.bad),
            "notes": to_plain(self.notes),
        }


class RowReport:
    """Collects bad rows, and the notes on good ones, during one pass."""

    def __init__(self, bad_share: float = Limits.bad_share, problems: Iterable[BadRow] = ()):
        self.bad_share = bad_share
        self.good = 0
        self.remarks = Remarks([BadEntry.of(None, problem) for problem in problems])

    @property
    def bad(self) -> list[BadEntry]:
        """The bad rows, those that the source itself left out first."""
        return self.remarks.bad

    def add(self, bad: BadRow, index: int | None = None) -> None:
        """Take in one bad row."""
        self.remarks.refuse(index, bad)

    def accept(self, index: int, row: Row) -> None:
        """Count one good row and keep its notes."""
        self.good += 1
        self.remarks.note(index, row.key, row.notes)

    def check(self, total: int) -> None:
        """Raise `InputError` if more than `bad_share` of `total` rows are bad."""
        self.remarks.check(total, self.bad_share)

    def save(self, path: str | Path) -> None:
        """Write `Remarks.to_dict` to `path` as JSON, atomically."""
        write_json(path, self.remarks.to_dict(self.good))

    def summary(self) -> str:
        """One paragraph for people."""
        bad, notes = self.remarks.bad, self.remarks.notes
        text = f"{self.good} rows were read and {len(bad)} cannot be used"
        if bad:
            first = ", ".join(entry.name for entry in bad[:_SHOWN])
            more = ", ..." if len(bad) > _SHOWN else ""
            text += f" ({self.remarks.reasons}): {first}{more}"
        if notes:
            noted = Counter(entry.note for entry in notes).most_common()
            text += ". Noted: " + ", ".join(f"{number} x {note}" for note, number in noted)
        return text + "."


def good_rows(source: PictureSource, report: RowReport) -> Iterator[tuple[int, Row]]:
    """Index and row of every good row of `source`; bad ones go to `report`.

    Raises:
        InputError: as soon as the report holds more bad rows than it allows.
    """
    report.check(source.total)
    for index in range(len(source)):
        try:
            row = source.read(index)
        except BadRow as bad:
            report.add(bad, index)
            report.check(source.total)
            continue
        report.accept(index, row)
        yield index, row
