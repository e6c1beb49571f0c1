"""Byte-pair encoding of arbitrary bytes: all 256 are there from the start, nothing is cut before.

The pairs are learnt and applied by the library `tokenizers`, which reads text; bytes reach it as
the 256 signs of the Braille block, as in JPEG-LM (arXiv 2408.08459).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, models, trainers

from arra.errors import InputError

_FIRST = 0x2800
_SIGNS = [chr(_FIRST + byte) for byte in range(256)]
Pair = tuple[int, int]


class ByteBPE:
    """Codes 0 to 255 are the bytes; the others spell two earlier codes each."""

    def __init__(self, merges: Sequence[Pair] = ()):
        """`merges` in the order in which they are applied. Two of them may spell the same bytes,
        and then stand for one code. `InputError` where one names a code that is not there yet."""
        self.merges = [(int(a), int(b)) for a, b in merges]
        names = list(_SIGNS)
        known = {name: code for code, name in enumerate(names)}
        for a, b in self.merges:
            if not 0 <= min(a, b) <= max(a, b) < len(names):
                raise InputError(f"merges: ({a}, {b}) after {len(names)} codes")
            if (name := names[a] + names[b]) not in known:
                known[name] = len(names)
                names.append(name)
        self.pieces = [to_bytes(name) for name in names]
        pairs = [(names[a], names[b]) for a, b in self.merges]
        # A file is one "word", and no two are alike: there is nothing to remember.
        self._tokenizer = Tokenizer(models.BPE(vocab=known, merges=pairs, cache_capacity=0))

    @classmethod
    def learn(cls, files: Iterable[bytes], vocabulary: int) -> ByteBPE:
        """Up to `vocabulary` codes (bytes included), the most frequent pairs of `files` merged."""
        if vocabulary < 256:
            raise InputError(f"vocabulary: {vocabulary}, bytes alone are 256")
        tokenizer = Tokenizer(models.BPE(cache_capacity=0))
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary, initial_alphabet=_SIGNS, show_progress=False
        )
        tokenizer.train_from_iterator(map(to_text, files), trainer)
        found = json.loads(tokenizer.to_str())["model"]["merges"]
        codes = {name: code for code, name in enumerate(_SIGNS)}
        merges = []
        for a, b in found:
            merges.append((codes[a], codes[b]))
            codes.setdefault(a + b, len(codes))
        return cls(merges)

    def __len__(self) -> int:
        return len(self.pieces)

    def encode(self, files: Sequence[bytes]) -> list[list[int]]:
        """Codes of each."""
        found = self._tokenizer.encode_batch_fast([*map(to_text, files)], add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def decode(self, codes: Sequence[int]) -> bytes:
        """The bytes that codes spell."""
        return b"".join(self.pieces[code] for code in codes)


def to_text(data: bytes) -> str:
    """A sign for each byte."""
    return "".join(map(_SIGNS.__getitem__, data))


def to_bytes(text: str) -> bytes:
    """The inverse of `to_text`."""
    return bytes(ord(sign) - _FIRST for sign in text)
