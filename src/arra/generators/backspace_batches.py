"""Batches of data with mistakes that are taken back, and of what the model wrote some steps ago."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from arra.errors import InputError
from arra.generators.backspacing import Writing
from arra.generators.base import DATA, MODEL, NOISE, Batch
from arra.generators.batches import Sample, Store, StoreBatches
from arra.settings import BatchConfig

Text = tuple[list[int], list[int]]
"""A prompt's ids, without what stands around them, and the actions after it by number."""


class OwnTexts(Protocol):
    """What the model itself wrote some steps ago."""

    def sample(self, step: int, rng: np.random.Generator) -> list[Text]:
        """Some of the texts that `step` learns from; none before there are any."""


def noised(
    codes: Sequence[int], writing: Writing, rate: float, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """The actions that write `codes` and end, and who chose them: before each, with probability
    `rate`, a token that is wrong there and the backspace that takes it back, if there is room."""
    end = len(writing.ids)
    actions: list[int] = []
    source: list[int] = []
    mistakes = rng.random(len(codes) + 1) < rate
    others = rng.random(len(codes) + 1)
    for stands, (right, mistaken, other) in enumerate(
        zip([*codes, end], mistakes.tolist(), others.tolist(), strict=True)
    ):
        if mistaken and end > 1 and stands < writing.most:
            wrong = int(other * end) if right == end else (right + 1 + int(other * (end - 1))) % end
            actions += [wrong, end + 1]
            source += [NOISE, DATA]
        actions.append(right)
        source.append(DATA)
    return actions, source


class BackspaceBatches(StoreBatches):
    """Batches of a store whose codes are numbers of tokens, -1 where a text has ended:
    `batch(step, part, parts)` depends on nothing else but, where there is a `replay`, on what it
    holds for the step."""

    def __init__(
        self,
        store: Store,
        writing: Writing,
        config: BatchConfig | None = None,
        *,
        pad: int = 0,
        rate: float = 0.0,
        replay: OwnTexts | None = None,
    ):
        super().__init__(store, config, ())
        if not 0 <= rate <= 1:
            raise InputError(f"BackspaceBatches.rate: {rate}, expected 0 to 1")
        self.writing, self.pad, self.rate, self.replay = writing, pad, rate, replay

    def _sample(self, text: Sequence[int], codes: Sequence[int]) -> Sample:
        actions = [*codes, len(self.writing.ids)]
        return self.writing.sample(text, actions, [DATA] * len(actions))

    def _listed(self, codes: Tensor) -> Sequence[Sequence[int]]:
        return [[code for code in row if code >= 0] for row in codes.flatten(1).tolist()]

    def _mistaken(
        self, text: Sequence[int], codes: Sequence[int], rng: np.random.Generator
    ) -> Sample:
        return self.writing.sample(text, *noised(codes, self.writing, self.rate, rng))

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        number = step * parts + part
        rng = np.random.default_rng([self.config.seed, 7, number])
        stored = self.store.rows(self._indices(number), ())
        dropped = self._dropped(number, rng, self.config.size)
        rows = zip(stored.text_ids, self._listed(stored.codes), dropped, strict=True)
        samples = [self._mistaken([] if drop else text, codes, rng) for text, codes, drop in rows]
        if self.replay is not None:
            for text, actions in self.replay.sample(step, rng):
                samples.append(self.writing.sample(text, actions, [MODEL] * len(actions)))
        return self._collated(samples, {}, self.config)
