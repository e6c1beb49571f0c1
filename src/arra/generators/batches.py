"""Training batches of a store: pure functions of the step, so resuming is exact."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from arra.codecs.streams import ByteStream
from arra.errors import InputError
from arra.generators.base import DATA, Batch
from arra.generators.vocabulary import ImageVocabulary
from arra.orders.layout import FOREVER
from arra.randomness import derangement, permuted
from arra.settings import BatchConfig

IGNORE = -100
CHAPTER = 1 << 18
"""Rows whose order is held in memory at a time."""


class Rows(Protocol):
    """What a prepared store gives for some of its rows."""

    @property
    def text_ids(self) -> Sequence[Sequence[int]]: ...

    @property
    def codes(self) -> Tensor: ...

    @property
    def features(self) -> Mapping[str, Tensor]: ...


class Store(Protocol):
    """What batches need of a prepared store."""

    def __len__(self) -> int: ...

    def rows(self, indices: Sequence[int], features: Sequence[str] | None = None) -> Rows:
        """Some rows, with only those `features`, or, for None, with all."""
        ...

    def text_lengths(self, indices: np.ndarray) -> np.ndarray:
        """(n,) the number of text ids of these rows."""
        ...


@dataclass(frozen=True)
class Sample:
    """One sample as tokens and what they predict."""

    tokens: list[int]
    target: list[int]
    place: list[int]
    read: list[int]
    image: list[bool] | None = None
    """Which outputs predict image content; None: those that predict a place."""
    position: list[int] | None = None
    """Where tokens stand in the text; None: one after the other."""
    dies: list[int] | None = None
    """From which token of the sample on each is no longer seen; None: all stay (`Batch.dies`)."""
    source: list[int] | None = None
    """Who chose the targets; None: the data (`Batch.source`)."""


def sequence(
    text: Sequence[int],
    codes: Sequence[int],
    vocabulary: ImageVocabulary,
    supervise_text: bool,
    stream: ByteStream | None = None,
) -> Sample:
    """[start] text <boi> x_1 ... x_n, the output at each position predicting the next token.

    <boi> to x_(n-1) predict image content; x_n predicts <eoi>, which is not an input. What stands
    around captions and between rows of codes is the vocabulary's matter. Of a `stream` only the
    codes before its end are there; <eoi> is that end, and image content.
    """
    if stream is not None:
        return _streamed(text, stream.content(codes), vocabulary, supervise_text, stream)
    prompt, image = vocabulary.prompt(text), vocabulary.picture(codes)
    tokens = prompt + image
    target = [*tokens[1:], vocabulary.end]
    if not supervise_text:
        target[: len(prompt) - 1] = [IGNORE] * (len(prompt) - 1)
    drawn = count()
    read = [next(drawn) if vocabulary.is_code(token) else -1 for token in image]
    place = [-1] * (len(prompt) - 1) + read + [-1]
    return Sample(tokens, target, place, [-1] * len(prompt) + read)


def _streamed(
    text: Sequence[int],
    content: Sequence[int],
    vocabulary: ImageVocabulary,
    supervise_text: bool,
    stream: ByteStream,
) -> Sample:
    """`sequence` of the bytes of a file. The place of a position is the block of the picture that
    the code which it predicts completes: the last one of each restart interval, say."""
    prompt, image = vocabulary.prompt(text), vocabulary.picture(content)
    tokens, before = prompt + image, len(prompt) - 1
    target = [*tokens[1:], vocabulary.end]
    if not supervise_text:
        target[:before] = [IGNORE] * before
    completed = stream.completed(content)
    return Sample(
        tokens,
        target,
        place=[-1] * before + completed,
        read=[-1] * len(prompt) + completed[:-1],
        image=[False] * before + [True] * len(completed),
    )


def text_sample(text: Sequence[int], vocabulary: ImageVocabulary) -> Sample:
    """[start] text, every token of it predicted: text ability is kept by practising it."""
    start = [] if vocabulary.start is None else [vocabulary.start]
    tokens = [*start, *text]
    none = [-1] * len(tokens)
    return Sample(tokens, [*tokens[1:], IGNORE], none, none)


def collate(
    samples: Sequence[Sample],
    features: Mapping[str, Tensor],
    pad: int,
    layout: Literal["right", "left", "packed"] = "right",
    packed_length: int = 512,
    multiple: int = 8,
) -> Batch:
    """Sequences as a batch; the layout changes where samples stand, not what they are."""
    rows = (
        _rows(samples, packed_length) if layout == "packed" else [[i] for i in range(len(samples))]
    )
    longest = max(sum(len(samples[i].tokens) for i in row) for row in rows)
    length = -(-longest // multiple) * multiple
    shape = (len(rows), length)
    tokens = np.full(shape, pad, dtype=np.int64)
    segment = np.full(shape, -1, dtype=np.int64)
    position = np.zeros(shape, dtype=np.int64)
    target = np.full(shape, IGNORE, dtype=np.int64)
    place = np.full(shape, -1, dtype=np.int64)
    read = np.full(shape, -1, dtype=np.int64)
    image = np.zeros(shape, dtype=bool)
    told = any(sample.source is not None for sample in samples)
    erased = any(sample.dies is not None for sample in samples)
    source = np.full(shape, DATA, dtype=np.int64)
    dies = np.full(shape, FOREVER, dtype=np.int64)
    for number, row in enumerate(rows):
        used = sum(len(samples[i].tokens) for i in row)
        start = length - used if layout == "left" else 0
        for i in row:
            sample = samples[i]
            here = slice(start, start + len(sample.tokens))
            tokens[number, here], target[number, here] = sample.tokens, sample.target
            place[number, here], read[number, here] = sample.place, sample.read
            image[number, here] = place[number, here] >= 0 if sample.image is None else sample.image
            segment[number, here] = i
            usual = np.arange(len(sample.tokens))
            position[number, here] = usual if sample.position is None else sample.position
            if sample.source is not None:
                source[number, here] = sample.source
            if sample.dies is not None:
                moments = np.asarray(sample.dies)
                dies[number, here] = np.where(moments == FOREVER, FOREVER, moments + start)
            start = here.stop
    return Batch(
        tokens=torch.from_numpy(tokens),
        segment=torch.from_numpy(segment),
        position=torch.from_numpy(position),
        target=torch.from_numpy(target),
        image=torch.from_numpy(image),
        place=torch.from_numpy(place),
        read=torch.from_numpy(read),
        dies=torch.from_numpy(dies) if erased else None,
        source=torch.from_numpy(source) if told else None,
        features=dict(features),
    )


def with_codes(batch: Batch, codes: Tensor, vocabulary: ImageVocabulary) -> Batch:
    """The same prompts with other pictures: codes (B, n) int64, as inputs and as targets.

    For a codec that is still learning, whose codes are not known when the batch is made.
    """
    tokens, target = batch.tokens.clone(), batch.target.clone()
    assert batch.read is not None  # `collate` tells
    for values, place in ((tokens, batch.read), (target, batch.place)):
        here = place >= 0
        values[here] = vocabulary.offset + codes[batch.segment[here], place[here]]
    return replace(batch, tokens=tokens, target=target)


def _rows(samples: Sequence[Sample], length: int) -> list[list[int]]:
    """First-fit packing of samples into rows of at most `length` positions."""
    rows: list[list[int]] = []
    room: list[int] = []
    for i, sample in enumerate(samples):
        need = len(sample.tokens)
        if need > length:
            raise InputError(
                f"BatchConfig.packed_length: {length} is shorter than a sample ({need})"
            )
        number = next((n for n, free in enumerate(room) if need <= free), len(rows))
        if number == len(rows):
            rows.append([])
            room.append(length)
        rows[number].append(i)
        room[number] -= need
    return rows


class StoreBatches(ABC):
    """Batches of a prepared store: `batch(step, part, parts)` depends on nothing else.

    A subclass says what a row of the store is as a sequence.
    """

    pad: int = 0
    """The token at unused positions."""
    needed: tuple[str, ...] = ()
    """Features without which there is no input."""

    def __init__(
        self,
        store: Store,
        config: BatchConfig | None = None,
        features: Sequence[str] | None = None,
    ):
        """`features`: which of the store's a batch holds (patches are large); None: all."""
        self.store, self.config = store, config or BatchConfig()
        self.features = None if features is None else (*features, *self.needed)
        if len(store) < self.config.size:
            raise InputError(
                f"BatchConfig.size: {self.config.size}, but the store has {len(store)} rows"
            )
        self._order: tuple[tuple[int, int], np.ndarray] | None = None

    @cached_property
    def _other(self) -> np.ndarray:
        """(N,) for the control: whose features each row gets."""
        return derangement(len(self.store), np.random.default_rng([self.config.seed, 1]))

    @abstractmethod
    def _sample(self, text: Sequence[int], codes: Sequence[int]) -> Sample:
        """A row of the store as a sequence."""

    def _others(self, rng: np.random.Generator) -> list[Sample]:
        """Samples without a picture, which stand behind those that have one."""
        return []

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """Part `part` of the `parts` of one step: those of all its micro-batches and processes."""
        return self._batch(step * parts + part, self._sample)

    def _batch(
        self, number: int, sample_of: Callable[[Sequence[int], Sequence[int]], Sample]
    ) -> Batch:
        """Batch `number`, of whose rows `sample_of` makes sequences."""
        indices = self._indices(number)
        shuffled = self.config.shuffle_features
        stored = self.store.rows(indices, () if shuffled else self.features)
        rng = np.random.default_rng([self.config.seed, 2, number])
        dropped = self._dropped(number, rng, len(indices))
        samples = self._samples(number, stored, dropped, sample_of)
        features = stored.features
        if shuffled:
            others = self._other[np.asarray(indices)].tolist()
            features = self.store.rows(others, self.features).features
        samples += self._others(rng)  # behind the pictures: features stay numbered as they are
        batch = self._collated(samples, features, self.config)
        return self._finished(batch, stored.codes, (self.config.seed, 5, number))

    def _samples(
        self,
        number: int,
        stored: Rows,
        dropped: np.ndarray,
        sample_of: Callable[[Sequence[int], Sequence[int]], Sample],
    ) -> list[Sample]:
        """The rows of batch `number` as sequences, those `dropped` (B,) without caption."""
        codes = self._listed(stored.codes)
        return [
            sample_of([] if drop else text, code)
            for text, code, drop in zip(stored.text_ids, codes, dropped, strict=True)
        ]

    def _dropped(self, number: int, rng: np.random.Generator, count: int) -> np.ndarray:
        """(count,) bool: the rows of batch `number` that lose their caption."""
        return rng.random(count) < self.config.drop_caption

    def in_order(self, size: int = 64, most: int | None = None) -> Iterator[Batch]:
        """The first `most` rows (None: all), each once, as they are: for held-out likelihoods.

        With their captions, with no features but those needed, padded on the right.
        """
        count = len(self.store) if most is None else min(most, len(self.store))
        for start in range(0, count, size):
            found = self.store.rows(range(start, min(start + size, count)), self.needed)
            codes = self._listed(found.codes)
            samples = [self._sample(*row) for row in zip(found.text_ids, codes, strict=True)]
            features = {name: found.features[name] for name in self.needed}
            batch = self._collated(samples, features, BatchConfig())
            yield self._told(self._finished(batch, found.codes, (0, 6, start)), start)

    def _listed(self, codes: Tensor) -> Sequence[Sequence[int]]:
        """The codes of each row of a store as `_sample` takes them."""
        return codes.flatten(1).tolist()

    def _finished(self, batch: Batch, codes: Tensor, key: tuple[int, int, int]) -> Batch:
        """A batch with what is no sequence: codes (B, ...) that are vectors, say, or what is hidden
        of them at random, by numbers that are a function of `key`."""
        return batch

    def _told(self, batch: Batch, number: int) -> Batch:
        """A batch of held-out rows; a law of vectors is told which noise to take."""
        return batch

    def _collated(
        self, samples: Sequence[Sample], features: Mapping[str, Tensor], config: BatchConfig
    ) -> Batch:
        return collate(
            samples, features, self.pad, config.layout, config.packed_length, config.multiple
        )

    def _indices(self, number: int) -> list[int]:
        """Rows of batch `number`; an epoch is a permutation, bucketed by caption length.

        It is cut into chapters, of which one is held, so that memory does not grow with the store.
        """
        epoch, place = divmod(number, len(self.store) // self.config.size)
        chapter, place = divmod(place, self._chapter)
        if self._order is None or self._order[0] != (epoch, chapter):
            self._order = (epoch, chapter), self._arranged(epoch, chapter)
        return self._order[1][place].tolist()

    @property
    def _chapter(self) -> int:
        """Batches in a chapter."""
        return max(1, CHAPTER // self.config.size)

    def _arranged(self, epoch: int, chapter: int) -> np.ndarray:
        """(batches, size) row numbers of one chapter."""
        size, bucket = self.config.size, self.config.bucket
        per_epoch, first = len(self.store) // size, chapter * self._chapter
        count = min(self._chapter, per_epoch - first)
        key = [self.config.seed, 3, epoch]
        if count == per_epoch:
            rng = np.random.default_rng(key)
            rows = rng.permutation(len(self.store))[: count * size]
        else:
            rng = np.random.default_rng([*key, chapter])
            places = np.arange(first * size, (first + count) * size)
            rows = permuted(places, len(self.store), np.random.default_rng(key))
        lengths = np.asarray(self.store.text_lengths(rows))
        batches = []
        for start in range(0, count * size, bucket * size):
            here = slice(start, start + bucket * size)
            mine = rows[here][np.argsort(lengths[here], kind="stable")].reshape(-1, size)
            batches.append(mine[rng.permutation(len(mine))])
        return np.concatenate(batches)


class RasterBatches(StoreBatches):
    """Batches of a raster generator, and of plain text beside the pictures."""

    def __init__(
        self,
        store: Store,
        vocabulary: ImageVocabulary,
        config: BatchConfig | None = None,
        features: Sequence[str] | None = None,
        replay: Sequence[Sequence[int]] = (),
        stream: ByteStream | None = None,
    ):
        """`replay` are pieces of plain text as ids, of which `config.replay` asks for some;
        `stream` what the codes mean where they are the bytes of a file."""
        super().__init__(store, config, features)
        self.vocabulary, self.replay, self.pad = vocabulary, replay, vocabulary.pad
        self.stream = stream
        if self.config.replay and not replay:
            raise InputError(
                f"BatchConfig.replay: {self.config.replay}, but there is no text to replay; name "
                "files with --replay-text"
            )

    def _sample(self, text: Sequence[int], codes: Sequence[int]) -> Sample:
        return sequence(text, codes, self.vocabulary, self.config.supervise_text, self.stream)

    def _others(self, rng: np.random.Generator) -> list[Sample]:
        replayed = self.config.replayed
        chosen = rng.integers(len(self.replay), size=replayed) if replayed else ()
        return [text_sample(self.replay[i], self.vocabulary) for i in chosen]
