"""Clips for tests, and a codec of clips that needs no other program.

It has a registry of its own: the library's contract tests are not about it. `film_known` makes it
known to the library for a while, so that commands find it in a folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from arra.codecs.streamed import StreamCodec
from arra.registry import Registry, codecs

test_codecs = Registry("codec")

_BEHIND = 255
"""The byte behind each block; greys are from 0 to 15."""


@dataclass(frozen=True)
class FilmConfig:
    """Settings of a film."""

    frames: int = 3
    grid: tuple[int, int] = (2, 2)
    vocabulary: int = 270
    longest: int = 4096
    across: bool = False


@test_codecs.register("film-of-tests")
class FilmCodec(StreamCodec):
    """Frame after frame, block after block of 8 x 8 pixels: four greys, and the byte 255."""

    registry: ClassVar[Registry] = test_codecs
    Config = FilmConfig
    downsample = 8
    separators = (f"{_BEHIND:02x}",)

    def __init__(self, config: FilmConfig):
        self.grid, self.channels, self.rate = config.grid, 3 * config.frames, 5.0
        super().__init__(config)

    @classmethod
    def tiny(cls):
        clips = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 9), dtype=np.uint8)
        return cls.fit(clips, FilmConfig())

    def bodies(self, pictures: np.ndarray) -> list[bytes]:
        found = []
        rows, columns = self.config.grid
        for picture in pictures:
            body = bytearray()
            for frame in np.split(picture, self.frames, axis=-1):
                grey = frame.mean(axis=-1).reshape(2 * rows, 4, 2 * columns, 4).mean(axis=(1, 3))
                levels = np.round(grey / 17).astype(np.uint8)
                blocks = levels.reshape(rows, 2, columns, 2).transpose(0, 2, 1, 3).reshape(-1, 4)
                for block in blocks:
                    body += bytes(block) + bytes([_BEHIND])
            found.append(bytes(body[:-1]))  # the end completes the last block
        return found

    def file(self, body: bytes) -> bytes:
        return b"FILM" + body

    def read(self, body: bytes) -> np.ndarray:
        rows, columns = self.config.grid
        blocks = np.full((self.frames * rows * columns, 4), 8, dtype=np.uint8)
        for place, part in enumerate(body.split(bytes([_BEHIND]))[: len(blocks)]):
            greys = np.frombuffer(part[:4], np.uint8) & 15
            blocks[place, : len(greys)] = greys
        greys = blocks.reshape(-1, rows, columns, 2, 2).transpose(0, 1, 3, 2, 4)
        greys = greys.reshape(-1, 2 * rows, 2 * columns) * np.uint8(17)
        frames = greys.repeat(4, axis=1).repeat(4, axis=2)[..., None].repeat(3, axis=-1)
        return np.concatenate(list(frames), axis=-1)

    def sound(self, body: bytes) -> bool:
        parts = body.split(bytes([_BEHIND]))
        whole = all(len(part) == 4 and max(part) < 16 for part in parts)
        return whole and len(parts) == self.frames * self.config.grid[0] * self.config.grid[1]


@contextmanager
def film_known() -> Iterator[None]:
    """Within it the library finds the codec by its name; may be nested."""
    if "film-of-tests" in codecs:
        yield
        return
    codecs.register("film-of-tests")(FilmCodec)
    try:
        yield
    finally:
        del codecs._classes["film-of-tests"]
