"""The report of a pass over a source: what was bad and why, and when there is too much of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from arra.data.rows import BadRow, Limits, PictureSource, Row
from arra.errors import InputError
from arra.files import write_json

_SHOWN = 5  # rows named in a message; the saved report names all


class RowReport:
    """Collects bad rows, and the notes on good ones, during one pass."""

    def __init__(self, bad_share: float = Limits.bad_share, problems: Iterable[BadRow] = ()):
        self.bad_share = bad_share
        self.good = 0
        self.bad: list[BadRow] = []
        self.notes: list[tuple[str, str]] = []
        for problem in problems:
            self.add(problem)

    def add(self, bad: BadRow) -> None:
        """Take in one bad row."""
        # A fresh object: the one that was raised holds, by its traceback, the bytes of the file.
        self.bad.append(BadRow(bad.name, bad.reason, bad.detail))

    def accept(self, row: Row) -> None:
        """Count one good row and keep its notes."""
        self.good += 1
        self.notes.extend((row.key, note) for note in row.notes)

    @property
    def counts(self) -> dict[str, int]:
        """Number of bad rows by reason, the most frequent first."""
        return dict(Counter(bad.reason for bad in self.bad).most_common())

    def check(self, total: int) -> None:
        """Raise `InputError` if more than `bad_share` of `total` rows are bad.

        `total` counts all rows of the source (`PictureSource.total`), not only those read so far,
        so that the answer does not depend on whether the bad ones come first.
        """
        if len(self.bad) <= self.bad_share * total:
            return
        shown = "; ".join(str(bad) for bad in self.bad[:_SHOWN])
        raise InputError(
            f"{len(self.bad)} of {total} rows cannot be used, more than the share of "
            f"{self.bad_share:g} that Limits.bad_share allows. By reason: {self._reasons()}. "
            f"The first: {shown}. Mend or remove these rows, or allow a larger share."
        )

    def _reasons(self) -> str:
        return ", ".join(f"{number} x {reason}" for reason, number in self.counts.items())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: numbers, counts by reason, every bad row, every note."""
        rows = [{"name": b.name, "reason": b.reason, "detail": b.detail} for b in self.bad]
        return {
            "good": self.good,
            "bad": len(self.bad),
            "reasons": self.counts,
            "rows": rows,
            "notes": [{"name": name, "note": note} for name, note in self.notes],
        }

    def save(self, path: str | Path) -> None:
        """Write `to_dict()` to `path` as JSON, atomically."""
        write_json(path, self.to_dict())

    def summary(self) -> str:
        """One paragraph for people."""
        text = f"{self.good} rows were read and {len(self.bad)} cannot be used"
        if self.bad:
            first = ", ".join(bad.name for bad in self.bad[:_SHOWN])
            more = ", ..." if len(self.bad) > _SHOWN else ""
            text += f" ({self._reasons()}): {first}{more}"
        if self.notes:
            noted = Counter(note for _, note in self.notes).most_common()
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
            report.add(bad)
            report.check(source.total)
            continue
        report.accept(row)
        yield index, row
