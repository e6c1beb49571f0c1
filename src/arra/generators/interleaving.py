"""Text and pictures of vectors in one row, and how a model writes both in one pass.

In a row every picture stands as <boi>, one token for each of its vectors, <eoi>. Each row of a
batch is in a mode of its own, text or picture: a step adds one token to every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from arra.errors import InputError
from arra.generators.vocabulary import ImageVocabulary
from arra.heads.diffusion import DiffusionHead
from arra.randomness import Noise

if TYPE_CHECKING:
    from arra.generators.language_vectors import LanguageVectorGenerator

Part = Sequence[int] | Tensor
"""Ids of a piece of text, or the vectors (n, C) of a picture."""


@dataclass
class Mixed:
    """A row of text and pictures."""

    tokens: list[int]
    vectors: list[Tensor] = field(default_factory=list)
    """(n, C) of each picture in turn; of the last one maybe only the first ones."""

    @classmethod
    def of(cls, parts: Sequence[Part], vocabulary: ImageVocabulary, *, draw: bool = False) -> Self:
        """The row of some parts; with `draw` a picture is to follow them."""
        tokens = [] if vocabulary.start is None else [vocabulary.start]
        vectors = []
        for part in parts:
            if isinstance(part, Tensor):
                vectors.append(part)
                cells = [vocabulary.offset] * len(part)
                tokens += [vocabulary.begin, *cells, vocabulary.end]
            else:
                tokens += part
        return cls(tokens + [vocabulary.begin] * draw, vectors)

    def places(self, vocabulary: ImageVocabulary) -> list[int]:
        """Which vector of its picture stands at each position; -1 is text."""
        found: list[int] = []
        for token in self.tokens:
            before = found[-1] if found else -1
            found.append(before + 1 if vocabulary.is_code(token) else -1)
        return found


def parts_of(row: Mixed, vocabulary: ImageVocabulary, end: int) -> list[list[int] | Tensor]:
    """The parts that `Mixed.of` made a row of; `end` ends the row, and a picture that is not
    complete is none."""
    found: list[list[int] | Tensor] = []
    pictures, words = iter(row.vectors), list[int]()
    for token in row.tokens:
        if token in (vocabulary.begin, end) and words:
            found.append(words)
            words = []
        if token == vocabulary.end:
            found.append(next(pictures))
        elif token not in (vocabulary.begin, vocabulary.start, end, vocabulary.offset):
            words.append(token)
        if token == end:
            break
    return [*found, words] if words else found


@dataclass
class _Row:
    """What one row is doing: writing text, or a picture of which `left` vectors are missing."""

    mixed: Mixed
    left: int = 0
    closing: bool = False
    """Whether a picture is complete, so that <eoi> follows."""
    pictures: int = 0
    words: int = 0
    over: bool = False

    def take(self, token: int, vector: Tensor | None, cells: int, v: ImageVocabulary) -> None:
        """Its next token, or, within a picture, vector (C,)."""
        if vector is not None:
            last = self.mixed.vectors
            last[-1] = torch.cat((last[-1], vector[None])) if len(last[-1]) else vector[None]
            self.left -= 1
            self.closing, token = self.left == 0, v.offset
        elif self.closing:
            self.closing, token = False, v.end
            self.pictures += 1
        else:
            self.words += 1
        if token == v.begin:
            self.left = cells
            self.mixed.vectors.append(torch.empty(0))
        self.mixed.tokens.append(token)


@torch.inference_mode()
def interleave(
    generator: LanguageVectorGenerator,
    prompts: Sequence[Mixed],
    noise: Noise,
    *,
    scales: Sequence[float] = (),
    temperature: float = 1.0,
    pictures: int = 1,
    most: int = 64,
) -> list[Mixed]:
    """Prompts (B), gone on with by text, `most` words, and at most so many `pictures`.

    `noise` is that of the rows, of which each has its own stream. `scales`: of guidance, none; (w,)
    away from what a model says that knows nothing before the picture; or (w_text, w_image), where
    one that knows the pictures before but no word stands between them (three-way guidance). A
    picture has exactly n vectors, then <eoi> follows. At temperature 0 text is the likeliest.
    """
    if len(scales) > 2 or not isinstance(generator.head, DiffusionHead):
        raise InputError(f"interleave: {len(scales)} scales, expected none to two")
    vocabulary, cells = generator.vocabulary, generator.config.cells
    rows = [_Row(Mixed(list(p.tokens), list(p.vectors))) for p in prompts]
    for row in rows:
        if row.mixed.tokens[-1:] == [vocabulary.begin]:
            row.left = cells
            row.mixed.vectors.append(torch.empty(0))
    streams = _Streams(generator, prompts, len(scales))
    state = streams.state
    while not all(row.over for row in rows):
        fresh = noise(generator.head.draws, 1, generator.dimensions)[:, :, 0]
        chance = noise(1)[:, 0]
        inside = [i for i, row in enumerate(rows) if row.left]
        vectors = dict[int, Tensor]()
        if inside:
            known = state.view(len(scales) + 1, len(rows), -1)[:, inside].flatten(0, 1)
            taken = fresh[inside].transpose(0, 1).to(state.device)
            found = generator.head.steered_sample(known, taken, scales, temperature)
            vectors = dict(zip(inside, found / generator.config.scale, strict=True))
        logits = generator.text_logits(state[: len(rows)])
        logits[[row.pictures >= pictures for row in rows], vocabulary.begin] = -torch.inf
        ids = _written(logits, chance.to(state.device), temperature).tolist()
        for i, row in enumerate(rows):
            if row.over:
                continue
            writes = not row.left and not row.closing
            if writes and (row.words >= most or ids[i] == generator.end):
                row.over = True
            else:
                row.take(ids[i], vectors.get(i), cells, vocabulary)
        state = streams.advance(rows, vectors)
    return [row.mixed for row in rows]


def _written(logits: Tensor, chance: Tensor, temperature: float) -> Tensor:
    """(B,) ids by normal numbers (B,): as shares they say where in the law an id is drawn."""
    if temperature == 0.0:
        return logits.argmax(dim=1)
    law = (logits / temperature).softmax(dim=1).cumsum(dim=1)
    share = torch.special.ndtr(chance)[:, None] * law[:, -1:]
    return torch.searchsorted(law, share, right=True)[:, 0].clamp(max=law.shape[1] - 1)


class _Streams:
    """The rows as the model reads them, and, for guidance, those that know less of each: pictures
    without words (if there are two), and nothing but the picture that is being drawn."""

    def __init__(self, generator: LanguageVectorGenerator, prompts: Sequence[Mixed], less: int):
        self.generator, self.vocabulary, self.less = generator, generator.vocabulary, less
        drawn = [prompt.tokens[-1:] == [self.vocabulary.begin] for prompt in prompts]

        def without_words(prompt: Mixed, draw: bool) -> Mixed:
            return Mixed.of(prompt.vectors, self.vocabulary, draw=draw)

        read = list(prompts)
        if less == 2:
            read += [without_words(*pair) for pair in zip(prompts, drawn, strict=True)]
        if less:
            read += [Mixed.of([], self.vocabulary, draw=draw) for draw in drawn]
        self.reading, self.state = generator.prefill(read)
        longest = self.reading.cache.stored
        self.starts = [longest - 1 - draw for draw in drawn]
        """Where the token with which a text begins stands in the rows that know nothing."""

    def advance(self, rows: Sequence[_Row], vectors: dict[int, Tensor]) -> Tensor:
        """States of all streams after one more position of each row."""
        v, generator, batch = self.vocabulary, self.generator, len(rows)
        last = [row.mixed.tokens[-1] for row in rows]
        going = [not row.over for row in rows]
        picture = [g and t in (v.begin, v.end, v.offset) for g, t in zip(going, last, strict=True)]
        inside = [g and t in (v.begin, v.offset) for g, t in zip(going, last, strict=True)]
        real = torch.tensor([going, *[picture] * (self.less == 2), *[inside] * (self.less > 0)])
        for i, (goes, token) in enumerate(zip(going, last, strict=True)):
            if self.less and goes and token == v.begin:
                self._forget(self.less * batch + i, self.starts[i])
        device = self.state.device
        ids = torch.tensor(last, device=device).repeat(self.less + 1)
        x = generator.lm.get_input_embeddings()(ids)
        if vectors:
            places = [len(rows[i].mixed.vectors[-1]) - 1 for i in vectors]
            found = generator.read(
                torch.stack(list(vectors.values())), torch.tensor(places, device=device)
            )
            where = torch.tensor(list(vectors), device=device)
            where = torch.cat([where + batch * number for number in range(self.less + 1)])
            x = x.index_put((where,), found.to(x.dtype).repeat(self.less + 1, 1))
        now = torch.zeros(len(ids), 1, dtype=torch.int64, device=device)
        kept = real.flatten().to(device)[:, None]
        self.state = generator.advance(x[:, None], kept, now, self.reading)[:, 0].where(
            kept, self.state
        )
        return self.state

    def _forget(self, row: int, start: int) -> None:
        """Make a row as if it had only begun."""
        begun = self.vocabulary.start is not None
        self.reading.cache.visible[row] = False
        self.reading.cache.visible[row, start] = begun
        self.reading.next[row] = int(begun)
