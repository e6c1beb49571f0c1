"""Training batches of sequences: pictures of one caption stand behind each other."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from arra.generators.base import Batch
from arra.generators.batches import Sample, Store
from arra.generators.vectors import VectorBatches
from arra.settings import BatchConfig

_READ = 4096  # rows of a store whose captions are read at a time


class TrajectoryBatches(VectorBatches):
    """Rows are pictures; `Batch.group` says which of them are a sequence.

    An epoch has every row once: those of a caption, shuffled, are cut into sequences of up to
    `pictures`, and these shuffled fill the batches. So a caption's last sequence is shorter where
    its rows are no multiple, those of captions with few rows always are (there is a warning), and
    one that the end of a batch cuts has its rest in the next. A sequence keeps or loses its
    caption as a whole.
    """

    def __init__(
        self,
        store: Store,
        config: BatchConfig,
        features: Sequence[str] | None,
        prompt: Callable[[Sequence[int]], list[int]],
        positions: int,
        pictures: int,
        alike: bool = True,
    ):
        """`alike`: whether the pictures of a sequence have one caption; a control has any."""
        super().__init__(store, config, features, prompt, positions)
        self.pictures, self.alike = pictures, alike
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None

    @cached_property
    def _captions(self) -> list[np.ndarray]:
        """The rows of each caption."""
        count = len(self.store)
        if not self.alike or self.pictures == 1:
            return [np.arange(count)]
        rows = defaultdict(list)
        for start in range(0, count, _READ):
            here = range(start, min(start + _READ, count))
            for row, text in zip(here, self.store.rows(here, ()).text_ids, strict=True):
                rows[tuple(text)].append(row)
        few = sum(len(found) < self.pictures for found in rows.values())
        if few:
            warnings.warn(
                f"VectorOptions.sequence: {self.pictures}, but of {len(rows)} captions {few} have "
                f"fewer pictures; their sequences are shorter",
                stacklevel=2,
            )
        return [np.array(found) for found in rows.values()]

    def _arranged_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(N,) row numbers in the order of an epoch, and (N,) which sequence each belongs to."""
        rng = np.random.default_rng([self.config.seed, 3, epoch])
        pieces: list[np.ndarray] = []
        for rows in self._captions:
            shuffled = rng.permutation(rows)
            pieces += np.split(shuffled, range(self.pictures, len(shuffled), self.pictures))
        chosen = [pieces[number] for number in rng.permutation(len(pieces))]
        sequence = np.repeat(np.arange(len(chosen)), [len(piece) for piece in chosen])
        return np.concatenate(chosen), sequence

    def _placed(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (size,) of batch `number`, and which of its sequences each belongs to."""
        size = self.config.size
        epoch, place = divmod(number, len(self.store) // size)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, *self._arranged_epoch(epoch)
        here = slice(place * size, (place + 1) * size)
        rows, sequence = (values[here] for values in self._epoch[1:])
        return rows, sequence - sequence[0]

    def _indices(self, number: int) -> list[int]:
        return self._placed(number)[0].tolist()

    def _dropped(self, number: int, rng: np.random.Generator, count: int) -> np.ndarray:
        sequence = self._placed(number)[1]
        return rng.random(sequence[-1] + 1)[sequence] < self.config.drop_caption

    def _batch(
        self, number: int, sample_of: Callable[[Sequence[int], Sequence[int]], Sample]
    ) -> Batch:
        sequence = torch.from_numpy(self._placed(number)[1].copy())
        return replace(super()._batch(number, sample_of), group=sequence)

    def _told(self, batch: Batch, number: int) -> Batch:
        """Held-out rows of one caption that are together in a batch are sequences, too."""
        known: defaultdict[tuple[int, ...], int] = defaultdict(int)
        named: dict[tuple[tuple[int, ...], int], int] = {}
        group = []
        for tokens, segment in zip(batch.tokens.tolist(), batch.segment.tolist(), strict=True):
            text = tuple(t for t, s in zip(tokens, segment, strict=True) if s >= 0)
            piece = text, known[text] // self.pictures
            known[text] += 1
            group.append(named.setdefault(piece, len(named)))
        return replace(super()._told(batch, number), group=torch.tensor(group))
