"""Texts after prompts, from plain files: what a language model is tuned on that writes and does not
draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from arra.errors import InputError
from arra.generators.backspacing import Writing
from arra.generators.raster import RasterGenerator


@dataclass(frozen=True)
class Line:
    """A line of a file: "prompt<tab>text", or a text alone."""

    prompt: str
    text: str
    where: str
    """File and number, for messages."""


def read_lines(files: Sequence[Path]) -> list[Line]:
    """The lines of UTF-8 files that are not blank; `InputError` for files without any."""
    found = []
    for path in files:
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: no text that can be read ({error})") from error
        for number, line in enumerate(content.splitlines(), start=1):
            if line.strip():
                prompt, tab, text = line.partition("\t")
                asked, said = (prompt, text) if tab else ("", prompt)
                found.append(Line(asked.strip(), said.strip(), f"{path} line {number}"))
        if not any(line.text for line in found):
            raise InputError(f"{path}: the file has no text")
    return found


@dataclass(frozen=True)
class _Rows:
    text_ids: Sequence[Sequence[int]]
    codes: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)


class Texts:
    """N prompts and texts as a store, whose codes (N, L) are numbers of tokens that may be written,
    -1 where a text has ended."""

    def __init__(self, lines: Sequence[Line], prompts: Sequence[Sequence[int]], codes: Tensor):
        self.lines, self.prompts, self.codes = lines, prompts, codes

    def __len__(self) -> int:
        return len(self.lines)

    def rows(
        self, indices: Sequence[int] | np.ndarray, features: Sequence[str] | None = None
    ) -> _Rows:
        """Some rows; there are no features."""
        chosen = [int(i) for i in indices]
        return _Rows([self.prompts[i] for i in chosen], self.codes[chosen])

    def text_lengths(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """(n,) how many ids the prompts of these rows have."""
        return np.array([len(self.prompts[i]) for i in indices])

    def subset(self, indices: Sequence[int] | np.ndarray) -> Texts:
        """Some rows, numbered from 0."""
        chosen = [int(i) for i in indices]
        return Texts(
            [self.lines[i] for i in chosen], [self.prompts[i] for i in chosen], self.codes[chosen]
        )


def texts_of(
    generator: RasterGenerator, lines: Sequence[Line], most: int | None = None
) -> tuple[Texts, Writing]:
    """Lines as a generator with a backspace reads them, and what it may write: any token of its
    tokenizer but the control tokens, `most` of them (None: as many as the longest text has).

    Raises `InputError` for a line that is longer, or than the model's positions.
    """
    ids = [generator.caption_ids(line.text) for line in lines]
    prompts = [generator.caption_ids(line.prompt) if line.prompt else [] for line in lines]
    longest = max(map(len, ids), default=0)
    writing = Writing.of_text(generator, longest if most is None else most)
    number = {token: place for place, token in enumerate(writing.ids)}
    for line, prompt, text in zip(lines, prompts, ids, strict=True):
        if len(text) > writing.most:
            raise InputError(
                f"{line.where}: {len(text)} tokens, expected at most {writing.most} (--most)"
            )
        if not text or not set(text) <= number.keys():
            raise InputError(f"{line.where}: its text is empty, or has tokens that end texts")
        if (needed := len(writing.prompt(prompt)) + writing.most) > generator.positions:
            raise InputError(
                f"{line.where}: with its prompt up to {needed} tokens, but the model is made for "
                f"{generator.positions}"
            )
    codes = torch.full((len(lines), longest), -1, dtype=torch.int64)
    for row, text in enumerate(ids):
        codes[row, : len(text)] = torch.tensor([number[token] for token in text])
    return Texts(lines, prompts, codes), writing
