"""Training batches of students: pairs of noise and codes, some of which are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from arra.errors import InputError
from arra.generators.base import Batch
from arra.generators.batches import IGNORE, Sample, Store
from arra.generators.vectors import VectorBatches
from arra.settings import BatchConfig

NOISE = "noise"
"""The feature (B, L, d) of which a pair's codes are a function."""


class StudentBatches(VectorBatches):
    """caption, then L positions, of which the first few are known: as many as one of the starts
    says, chosen for each row. The others are predicted; a code stands at its own position.

    Rows of the store have the feature `NOISE`. Without their captions pairs mean nothing.
    """

    needed = (NOISE,)

    def __init__(
        self,
        store: Store,
        config: BatchConfig,
        features: Sequence[str] | None,
        prompt: Callable[[Sequence[int]], list[int]],
        positions: int,
        known: Sequence[int],
    ):
        """`known`: how many positions may be known."""
        super().__init__(store, config, features, prompt, positions)
        self.known = np.asarray(known)

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        if self.config.drop_caption or self.config.shuffle_features:
            raise InputError(
                "BatchConfig: a student's pairs keep their captions and noise, so drop_caption is "
                "0 and shuffle_features off"
            )
        return super().batch(step, part, parts)

    def _listed(self, codes: Tensor) -> Sequence[Sequence[int]]:
        flat = codes.flatten(1)
        if flat.is_floating_point() or flat.shape[1] != self.positions:
            raise InputError(
                f"the store has codes {tuple(codes.shape[1:])}, a student of {self.positions} "
                "codes learns from pairs that its teacher made (arra distill)"
            )
        return flat.tolist()

    def _sample(self, text: Sequence[int], codes: Sequence[int]) -> Sample:
        sample = super()._sample(text, codes)
        return replace(sample, tokens=[*sample.tokens[: -self.positions], *codes])

    def _finished(self, batch: Batch, codes: Tensor, key: tuple[int, int, int]) -> Batch:
        return self._from(batch, np.random.default_rng(key).choice(self.known, len(codes)))

    def _told(self, batch: Batch, number: int) -> Batch:
        return self._from(batch, np.zeros(len(batch.tokens), dtype=np.int64))

    def _from(self, batch: Batch, known: np.ndarray) -> Batch:
        """The same pairs, of each of which the first `known` (B,) codes are given."""
        place = torch.arange(self.positions)
        given = place < torch.from_numpy(known)[:, None]
        before = batch.tokens.shape[1] - self.positions
        none = torch.full_like(batch.tokens[:, :before], -1)
        target = batch.tokens[:, before:].masked_fill(given, IGNORE)
        here = place.expand_as(given)
        predicted = torch.cat((none, here.masked_fill(given, -1)), dim=1)
        return replace(
            batch,
            target=torch.cat((torch.full_like(none, IGNORE), target), dim=1),
            place=predicted,
            image=predicted >= 0,
            read=torch.cat((none, here.masked_fill(~given, -1)), dim=1),
        )
