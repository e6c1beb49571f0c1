"""A table of tri-grams: how likely a code is after two others (ADED, arXiv 2407.12021)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from arra.errors import InputError
from arra.files import atomic_file

FILE = "trigrams.safetensors"
"""Beside a checkpoint."""
_MOST_BYTES = 1 << 30
_MOST_CODES = 1 << 20  # three of them fit an int64
_CHUNK = 1 << 22  # tri-grams that are counted at once


@dataclass(frozen=True)
class Trigrams:
    """The likely successors of pairs of codes."""

    codes: int
    """V, how many codes there are."""
    pairs: np.ndarray
    """(P,) int64, growing: a V + b of the pairs (a, b) that have successors."""
    starts: np.ndarray
    """(P + 1,) int64: where those of each pair begin, and all end."""
    successors: np.ndarray
    """(S,) int64: of each pair by falling chance, equal ones by code."""
    chances: np.ndarray
    """(S,) float32: how often each was seen, as a share of all that were, pruned ones included."""

    @classmethod
    def empty(cls, codes: int = _MOST_CODES) -> Self:
        """A table of nothing."""
        none = np.zeros(0, dtype=np.int64)
        return cls(codes, none, np.zeros(1, dtype=np.int64), none, none.astype(np.float32))

    @classmethod
    def counted(cls, sequences: Iterable[np.ndarray], codes: int, most: int = 12) -> Self:
        """Counted in arrays (..., L) of codes, within their last axis; `most` successors a pair.

        `InputError` for codes that are none.
        """
        if not 1 <= codes <= _MOST_CODES or most < 1:
            raise InputError(f"Trigrams: {codes} codes, {most} successors, expected 1 or more")
        found, counts = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        waiting: list[np.ndarray] = []
        for sequence in sequences:
            rows = np.asarray(sequence, dtype=np.int64)
            if rows.size and not 0 <= rows.min() <= rows.max() < codes:
                raise InputError(
                    f"Trigrams: codes {rows.min()} to {rows.max()}, expected 0 to {codes - 1}"
                )
            keys = (rows[..., :-2] * codes + rows[..., 1:-1]) * codes + rows[..., 2:]
            waiting.append(keys.ravel())
            if sum(map(len, waiting)) > _CHUNK:
                found, counts = _merged(found, counts, waiting)
                waiting = []
        found, counts = _merged(found, counts, waiting)
        return cls._pruned(codes, found, counts, most)

    @classmethod
    def _pruned(cls, codes: int, keys: np.ndarray, counts: np.ndarray, most: int) -> Self:
        """Of tri-grams (n,) and how often each was seen."""
        pair, successor = keys // codes, keys % codes
        order = np.lexsort((successor, -counts, pair))
        pair, successor, counts = pair[order], successor[order], counts[order]
        pairs, first, number = np.unique(pair, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, first) if len(first) else counts
        chances = (counts / np.repeat(totals, number)).astype(np.float32)
        rank = np.arange(len(pair)) - np.repeat(first, number)
        kept = rank < most
        starts = np.concatenate(([0], np.minimum(number, most).cumsum())).astype(np.int64)
        return cls(codes, pairs, starts, successor[kept], chances[kept])

    def row(self, first: int, second: int) -> dict[int, float]:
        """The successors of a pair with their chances, by falling chance."""
        pair = first * self.codes + second
        at = int(np.searchsorted(self.pairs, pair))
        if at == len(self.pairs) or self.pairs[at] != pair:
            return {}
        here = slice(int(self.starts[at]), int(self.starts[at + 1]))
        return dict(zip(self.successors[here].tolist(), self.chances[here].tolist(), strict=True))

    def fingerprint(self) -> str:
        """Hex digest of all that the table says."""
        digest = hashlib.sha256(str(self.codes).encode())
        for array in (self.pairs, self.starts, self.successors, self.chances):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def save(self, path: Path, notes: Mapping[str, str] | None = None) -> None:
        """Write the table, with `notes` of where it comes from, in one step."""
        arrays = {
            "pairs": self.pairs,
            "starts": self.starts,
            "successors": self.successors,
            "chances": self.chances,
        }
        with atomic_file(path) as temporary:
            save_file(arrays, temporary, {**(notes or {}), "codes": str(self.codes)})

    @classmethod
    def load(cls, path: Path, notes: Mapping[str, str] | None = None) -> Self:
        """The table in a file; `InputError` where it is none, or has other `notes`."""
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise InputError(f"{path}: more than {_MOST_BYTES} bytes, expected tri-grams")
            with safe_open(path, framework="numpy") as file:
                told = dict(file.metadata() or {})
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot be read as a table of tri-grams ({error})") from error
        for name, value in (notes or {}).items():
            if told.get(name) != value:
                raise InputError(
                    f"{path}: {name} {told.get(name, 'not told')}, expected {value}; count its "
                    "tri-grams again"
                )
        try:
            table = cls(int(told["codes"]), **arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: holds {sorted(arrays)}, expected tri-grams") from error
        table.check(path)
        return table

    def check(self, where: Path | str) -> None:
        """`InputError` unless the arrays are those of a table."""
        types = (self.pairs, np.int64), (self.starts, np.int64), (self.successors, np.int64)
        whole = all(x.ndim == 1 and x.dtype == kind for x, kind in types)
        fine = (
            whole
            and self.chances.dtype == np.float32
            and 1 <= self.codes <= _MOST_CODES
            and len(self.starts) == len(self.pairs) + 1
            and self.chances.shape == self.successors.shape
            and self.starts[0] == 0
            and self.starts[-1] == len(self.successors)
            and bool((np.diff(self.starts) > 0).all())
            and bool((np.diff(self.pairs) > 0).all())
            and _within(self.pairs, self.codes**2)
            and _within(self.successors, self.codes)
            and bool(((self.chances > 0) & (self.chances <= 1)).all())
        )
        if not fine:
            raise InputError(f"{where}: its arrays are not those of a table of tri-grams")


def _within(values: np.ndarray, bound: int) -> bool:
    return not len(values) or bool(0 <= values.min() <= values.max() < bound)


def _merged(
    keys: np.ndarray, counts: np.ndarray, waiting: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Keys, growing, and how often each was seen, with those that wait."""
    new, often = np.unique(np.concatenate([keys[:0], *waiting]), return_counts=True)
    together = np.concatenate((keys, new))
    found, where = np.unique(together, return_inverse=True)
    total = np.bincount(where, weights=np.concatenate((counts, often)), minlength=len(found))
    return found, total.astype(np.int64)
