"""Rows in which a picture follows its caption or stands before it, for models that do both.

    [start] caption <boi> x_1 ... x_n <eoi>, end        drawing
    [start] <boi> x_1 ... x_n <eoi> caption, end        reading
    [start] <boi> x_1 ... x_n <eoi> question answer, end        answering

The output at each position predicts the next token; `end` is no input. B pictures of n vectors.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count

import numpy as np
import torch
from torch import Tensor

from arra.errors import InputError
from arra.generators.base import Batch
from arra.generators.batches import (
    IGNORE,
    RasterBatches,
    Rows,
    Sample,
    Store,
    StoreBatches,
    collate,
    text_sample,
)
from arra.generators.rounds import hidden_cells
from arra.generators.vectors import VectorBatches
from arra.generators.vocabulary import ImageVocabulary
from arra.settings import BatchConfig, VectorOptions


def drawing(
    text: Sequence[int],
    codes: Sequence[int],
    vocabulary: ImageVocabulary,
    end: int,
    supervise_text: bool = False,
) -> Sample:
    """Caption, then picture; the caption and <boi> are predicted only with `supervise_text`."""
    prompt = vocabulary.prompt(text)
    tokens = [*prompt, *vocabulary.picture(codes), vocabulary.end]
    return _sample(tokens, vocabulary, end, silent=0 if supervise_text else len(prompt) - 1)


def reading(
    text: Sequence[int],
    codes: Sequence[int],
    vocabulary: ImageVocabulary,
    end: int,
    question: Sequence[int] = (),
) -> Sample:
    """Picture, then caption, both predicted; of an empty caption (a dropped one) nothing is.

    With a `question`, which is not predicted, `text` is the answer to it.
    """
    before = [*vocabulary.prompt(()), *vocabulary.picture(codes)]
    tokens = [*before, vocabulary.end, *question, *text]
    sample = _sample(tokens, vocabulary, end, silent=len(vocabulary.prompt(())) - 1)
    target, given = sample.target, len(before) + len(question)
    target[len(before) : given] = [IGNORE] * len(question)
    return sample if text else replace(sample, target=[*target[:-1], IGNORE])


def _sample(tokens: list[int], vocabulary: ImageVocabulary, end: int, silent: int) -> Sample:
    """The first `silent` outputs predict nothing."""
    drawn = count()
    read = [next(drawn) if vocabulary.is_code(token) else -1 for token in tokens]
    target = [IGNORE] * silent + [*tokens[1:], end][silent:]
    return Sample(tokens, target, place=[*read[1:], -1], read=read)


def of_vectors(sample: Sample) -> Sample:
    """The sample where units of the picture are vectors: they are no targets of a softmax."""
    target = [IGNORE if p >= 0 else t for t, p in zip(sample.target, sample.place, strict=True)]
    return replace(sample, target=target)


def of_cells(sample: Sample, read: bool) -> Sample:
    """The sample where every cell predicts itself: all are hidden, or, to be `read`, none is."""
    inside = [max(r, p) >= 0 for r, p in zip(sample.read, sample.place, strict=True)]
    target = [IGNORE if i else t for t, i in zip(sample.target, inside, strict=True)]
    none = [-1] * len(target)
    if read:
        return replace(sample, target=target, place=none)
    return replace(sample, target=target, place=sample.read, read=none)


def _asked(stored: Rows) -> Sequence[Sequence[tuple[Sequence[int], Sequence[int]]]]:
    """Ids of questions and answers of each row; only prepared stores have some."""
    return getattr(stored, "questions", ())


class _BothOrders(StoreBatches):
    """Of every batch the share `reading` of the rows, the last ones, is read; of each of these that
    has questions one is answered, with the probability `asking`, and not the caption said."""

    reading: float
    asking: float = 0.0

    @abstractmethod
    def _reading(
        self, text: Sequence[int], codes: Sequence[int], question: Sequence[int] = ()
    ) -> Sample:
        """A row of the store with its picture first."""

    def _samples(
        self,
        number: int,
        stored: Rows,
        dropped: np.ndarray,
        sample_of: Callable[[Sequence[int], Sequence[int]], Sample],
    ) -> list[Sample]:
        drawn = self.config.size - math.floor(self.reading * self.config.size)
        rng = np.random.default_rng([self.config.seed, 10, number])
        questions = _asked(stored) if self.asking else ()
        rows = zip(stored.text_ids, self._listed(stored.codes), dropped, strict=True)
        samples = []
        for row, (text, codes, drop) in enumerate(rows):
            asked = questions[row] if questions else ()
            chance, which = rng.random(2)
            if row < drawn:
                samples.append(sample_of(() if drop else text, codes))
            elif asked and chance < self.asking and not drop:
                question, answer = asked[int(which * len(asked))]
                samples.append(self._reading(answer, codes, question))
            else:
                samples.append(self._reading(() if drop else text, codes))
        return samples

    def _indices(self, number: int) -> list[int]:
        """In an order of chance: rows come by the length of their captions; the last are read."""
        found = super()._indices(number)
        rng = np.random.default_rng([self.config.seed, 7, number])
        return [found[i] for i in rng.permutation(len(found))]


class CodesBothOrders(_BothOrders, RasterBatches):
    """For a raster generator, whose picture codes are tokens like any other."""

    def __init__(
        self,
        store: Store,
        vocabulary: ImageVocabulary,
        config: BatchConfig,
        end: int,
        reading: float = 0.5,
    ):
        """`end`: what follows the last token of a row."""
        super().__init__(store, vocabulary, config)
        self.end, self.reading = end, reading

    def _sample(self, text: Sequence[int], codes: Sequence[int]) -> Sample:
        return drawing(text, codes, self.vocabulary, self.end, self.config.supervise_text)

    def _reading(
        self, text: Sequence[int], codes: Sequence[int], question: Sequence[int] = ()
    ) -> Sample:
        return reading(text, codes, self.vocabulary, self.end, question)


class LanguageVectorBatches(_BothOrders, VectorBatches):
    """For a causal model of vectors. A picture that is read is predicted too: without a caption
    before it, as guidance needs it."""

    def __init__(
        self,
        store: Store,
        config: BatchConfig,
        features: Sequence[str] | None,
        vocabulary: ImageVocabulary,
        cells: int,
        options: VectorOptions,
        end: int,
        replay: Sequence[Sequence[int]] = (),
    ):
        """`cells` n; `end`: what follows the last token of a row; `replay`: pieces of plain text as
        ids, of which `config.replay` asks for some."""
        super().__init__(store, config, features, vocabulary.prompt, cells)
        self.vocabulary, self.options, self.end, self.replay = vocabulary, options, end, replay
        self.pad, self.reading = vocabulary.pad, options.reading
        self.asking = options.asking
        if config.replay and not replay:
            raise InputError(
                f"BatchConfig.replay: {config.replay}, but there is no text to replay; name files "
                "with --replay-text"
            )

    def _check(self, config: BatchConfig) -> None:
        """Nothing is refused: text is predicted, and rows may lie in any way."""

    @property
    def _blank(self) -> list[int]:
        """What stands for n vectors in a row of codes."""
        return [0] * self.positions

    def _sample(self, text: Sequence[int], codes: Sequence[int]) -> Sample:
        made = drawing(text, self._blank, self.vocabulary, self.end, self.config.supervise_text)
        return of_vectors(made)

    def _reading(
        self, text: Sequence[int], codes: Sequence[int], question: Sequence[int] = ()
    ) -> Sample:
        return of_vectors(reading(text, self._blank, self.vocabulary, self.end, question))

    def _others(self, rng: np.random.Generator) -> list[Sample]:
        replayed = self.config.replayed
        chosen = rng.integers(len(self.replay), size=replayed) if replayed else ()
        return [text_sample(self.replay[i], self.vocabulary) for i in chosen]

    def _collated(
        self, samples: Sequence[Sample], features: Mapping[str, Tensor], config: BatchConfig
    ) -> Batch:
        return collate(
            samples, features, self.pad, config.layout, config.packed_length, config.multiple
        )


class MaskedLanguageBatches(LanguageVectorBatches):
    """For a model that sees a picture as a whole. Of pictures to be drawn some cells are hidden, as
    many in all of a batch: a share of a normal law around 1, of deviation 0.25, cut to least to 1.
    Pictures to be read are whole, and no loss of vectors is taken of them."""

    def _sample(self, text: Sequence[int], codes: Sequence[int]) -> Sample:
        made = drawing(text, self._blank, self.vocabulary, self.end, self.config.supervise_text)
        return of_cells(made, read=False)

    def _reading(
        self, text: Sequence[int], codes: Sequence[int], question: Sequence[int] = ()
    ) -> Sample:
        made = reading(text, self._blank, self.vocabulary, self.end, question)
        return of_cells(made, read=True)

    def least(self, step: int) -> float:
        """The least share of cells that is hidden in this step."""
        widened = self.options.widened
        return 0.0 if widened and step >= widened else self.options.least

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        batch = super().batch(step, part, parts)
        rng = np.random.default_rng([self.config.seed, 8, step * parts + part])
        return self._hidden(batch, self.least(step), rng)

    def in_order(self, size: int = 64, most: int | None = None) -> Iterator[Batch]:
        for number, batch in enumerate(super().in_order(size, most)):
            rng = np.random.default_rng([0, 9, number])
            yield self._hidden(batch, self.options.least, rng)

    def _finished(self, batch: Batch, codes: Tensor, key: tuple[int, int, int]) -> Batch:
        batch = super()._finished(batch, codes, key)
        return replace(batch, position=batch.position - behind_first(batch, self.vocabulary))

    def _hidden(self, batch: Batch, least: float, rng: np.random.Generator) -> Batch:
        """Some cells of the pictures that are to be drawn become such that are read."""
        assert batch.read is not None  # `collate` tells
        assert batch.latents is not None
        hidden = hidden_cells(rng, len(batch.latents), self.positions, least)
        seen = batch.image.clone()
        seen[batch.image] = ~hidden[batch.segment[batch.image], batch.place[batch.image]]
        return replace(
            batch,
            place=batch.place.masked_fill(seen, -1),
            image=batch.image & ~seen,
            read=torch.where(seen, batch.place, batch.read),
        )


def behind_first(batch: Batch, vocabulary: ImageVocabulary) -> Tensor:
    """(R, T) how many cells of its own sample, but the first, stand at a position or before it:
    the cells of a picture are at one moment, and so in one place of the text."""
    cell = (batch.tokens >= vocabulary.offset) & (
        batch.tokens < vocabulary.offset + vocabulary.codes
    )
    follows = cell & torch.nn.functional.pad(cell[:, :-1], (1, 0))
    so_far = follows.long().cumsum(dim=1)
    first = torch.arange(cell.shape[1]) - batch.position
    return (so_far - so_far.gather(1, first.clamp(min=0))).masked_fill(batch.segment < 0, 0)
