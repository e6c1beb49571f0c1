"""Codes that spell the bytes of a file: what a generator must know of them, without the codec."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from arra.errors import InputError


@dataclass(frozen=True)
class ByteStream:
    """What codes of variable number mean.

    A picture is a row of `longest` codes: those of its file, then the code `end`, which also fills
    the rest of the row. Only the codes up to and with the first `end` are learnt and drawn.
    """

    pieces: tuple[str, ...]
    """The bytes, in hexadecimal, that each code spells; the last one is the end and spells none."""
    longest: int
    """Codes of the longest file that fits, its end included."""
    separators: tuple[str, ...] = ()
    """Byte strings, in hexadecimal, that stand behind each block of the picture but the last, which
    the end completes; none: blocks cannot be told apart."""
    cells: int = 1
    """Cells of the picture's grid. Blocks are counted in its raster order; those of a second frame
    begin at the first cell again."""

    def __post_init__(self) -> None:
        if len(self.pieces) < 2 or self.pieces[-1]:
            raise InputError("ByteStream.pieces: the last code is the end and spells nothing")
        if self.longest < 2:
            raise InputError(f"ByteStream.longest: {self.longest}, expected 2 or more")

    @property
    def end(self) -> int:
        """The code that ends a picture."""
        return len(self.pieces) - 1

    @cached_property
    def spelled(self) -> list[bytes]:
        """The bytes of each code."""
        return [bytes.fromhex(piece) for piece in self.pieces]

    @cached_property
    def _separator(self) -> re.Pattern[bytes] | None:
        parts = [re.escape(bytes.fromhex(text)) for text in self.separators]
        return re.compile(b"|".join(parts), re.DOTALL) if parts else None

    def content(self, codes: Sequence[int]) -> list[int]:
        """The codes before the first end."""
        found = list(codes)
        return found[: found.index(self.end)] if self.end in found else found

    def spell(self, codes: Sequence[int]) -> bytes:
        """The bytes of the codes before the first end."""
        return b"".join(map(self.spelled.__getitem__, self.content(codes)))

    def ends_of_blocks(self, data: bytes) -> list[int]:
        """How many bytes have been read when block 0, 1, ... is complete; the last block is not
        among them, for no separator stands behind it."""
        found = self._separator
        return [] if found is None else [match.end() for match in found.finditer(data)]

    def blocks(self, data: bytes) -> list[bytes]:
        """The bytes of each block, its separator with them."""
        ends = [0, *self.ends_of_blocks(data), len(data)]
        return [data[start:stop] for start, stop in pairwise(ends) if stop > start]

    def completed(self, content: Sequence[int]) -> list[int]:
        """For each of n codes before the end, and for the end: the cell that it completes, or -1.

        Where one code completes several blocks (merges may span them) it counts for the last.
        """
        blocks = [-1] * (len(content) + 1)
        if self._separator is None:
            return blocks
        pieces = [self.spelled[code] for code in content]
        read = list(accumulate(map(len, pieces)))
        ends = self.ends_of_blocks(b"".join(pieces))
        for block, stop in enumerate(ends):
            blocks[bisect_right(read, stop - 1)] = block % self.cells
        blocks[-1] = len(ends) % self.cells
        return blocks
