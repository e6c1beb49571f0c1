"""Some rows of a prepared store as if they were all of it; rows to train on and to hold out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from arra.data.rows import Question
from arra.data.store import PreparedStore, StoredRows
from arra.errors import InputError

MOST_HELD_OUT = 2048
"""More rows than this tell little more, and would be lost for training."""


class Subset:
    """The rows `indices` of a store, numbered from 0."""

    def __init__(self, store: PreparedStore, indices: Sequence[int] | np.ndarray):
        self.store = store
        self.indices = np.asarray(indices, dtype=np.int64)
        if self.indices.size and not 0 <= self.indices.min() <= self.indices.max() < len(store):
            raise InputError(f"{store.folder}: rows outside 0 to {len(store) - 1}")
        self.codes_shape, self.vocabulary = store.codes_shape, store.vocabulary
        self.asks = store.asks

    def __len__(self) -> int:
        return len(self.indices)

    def _of(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if wanted.size and wanted.min() < 0:
            raise IndexError(f"row {wanted.min()} of {len(self)}")
        return self.indices[wanted]

    def rows(
        self, indices: Sequence[int] | np.ndarray, features: Sequence[str] | None = None
    ) -> StoredRows:
        """As `PreparedStore.rows`."""
        return self.store.rows(self._of(indices), features)

    def text_lengths(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """As `PreparedStore.text_lengths`."""
        return self.store.text_lengths(self._of(indices))

    def captions(self, indices: Sequence[int] | np.ndarray) -> list[str]:
        """Captions in the order of `indices`."""
        return self.store.captions(self._of(indices))

    def questions(self, indices: Sequence[int] | np.ndarray) -> list[tuple[Question, ...]]:
        """As `PreparedStore.questions`."""
        return self.store.questions(self._of(indices))

    def keys(self, indices: Sequence[int] | np.ndarray) -> list[str]:
        """Names in the source, in the order of `indices`."""
        return self.store.keys(self._of(indices))


def split_rows(rows: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to train on and to hold out, both ascending; a function of the arguments alone.

    About `share` of the rows are held out, but at most `MOST_HELD_OUT` of them.
    """
    if not 0.0 <= share < 1.0:
        raise InputError(f"held_out_share: {share}, expected 0 or more and less than 1")
    count = min(round(rows * share), MOST_HELD_OUT)
    order = np.random.default_rng([20250301, rows]).permutation(rows)
    return np.sort(order[count:]), np.sort(order[:count])
