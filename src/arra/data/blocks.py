"""Pictures that are already arrays: sources that skip decoding and fitting."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from arra.data.rows import ClipRow, Question, listed_questions
from arra.data.scene_questions import some_questions
from arra.data.scenes import DigitScenes
from arra.errors import InputError
from arra.files import sha256_of_json, to_plain
from arra.pixels import unstacked


class RowLike(Protocol):
    """A captioned picture."""

    @property
    def key(self) -> str: ...
    @property
    def image(self) -> Image.Image: ...
    @property
    def caption(self) -> str: ...


class Source(Protocol):
    """What preparation asks of a source of captioned pictures.

    `read` may raise an `InputError` with the attributes `name` and `reason`: a bad row, which is
    skipped and reported. Sources are picklable, so that worker processes can have their own.
    """

    def __len__(self) -> int: ...
    def read(self, index: int) -> RowLike:
        """Row `index`."""
        ...

    def identity(self) -> dict[str, Any]:
        """What the rows depend on, as JSON can hold it."""
        ...


@dataclass(frozen=True)
class PictureBlock:
    """Consecutive rows of a source whose pictures are arrays."""

    keys: Sequence[str]
    """n names."""
    pictures: np.ndarray
    """(n, H, W, 3) uint8; (n, H, W, 3 T) where rows are clips."""
    captions: Sequence[str]
    """n captions."""
    questions: Sequence[tuple[Question, ...]] = ()
    """Those of n rows, or nothing where nobody asks."""


@runtime_checkable
class BlockSource(Protocol):
    """A source that can also give many rows of square pictures at once."""

    side: int
    """Height and width of every picture, in pixels."""

    def block(self, start: int, stop: int) -> PictureBlock:
        """The rows `start` to `stop`."""
        ...


@dataclass(frozen=True)
class BlockRow:
    """One row of a block."""

    key: str
    image: Image.Image
    caption: str
    questions: tuple[Question, ...] = ()


class _Blocks:
    """`read` by way of `block`, for sources that are arrays."""

    side: int
    frames: int = 1
    problems: tuple[Any, ...] = ()
    asks: bool = False

    def block(self, start: int, stop: int) -> PictureBlock:
        raise NotImplementedError

    def read(self, index: int) -> RowLike:
        """Row `index` as a picture, or as a clip."""
        block = self.block(index, index + 1)
        frames = [Image.fromarray(frame) for frame in unstacked(block.pictures)[0]]
        key, caption = block.keys[0], block.captions[0]
        if self.frames > 1:
            return ClipRow.of(key, frames, caption)
        return BlockRow(key, frames[0], caption, *block.questions)


class ArrayPictures(_Blocks):
    """Pictures (N, S, S, 3) uint8, or clips (N, S, S, 3 T), with N captions, as a source.

    Raises `InputError` where shapes, types or lengths do not agree.
    """

    def __init__(
        self,
        pictures: np.ndarray,
        captions: Sequence[str],
        keys: Sequence[str] | None = None,
        questions: Sequence[tuple[Question, ...]] = (),
    ):
        shape = pictures.shape
        fits = len(shape) == 4 and shape[1] == shape[2] and shape[3] > 0 and shape[3] % 3 == 0
        if pictures.dtype != np.uint8 or not fits:
            raise InputError(
                f"pictures: {pictures.dtype} {shape}, expected uint8 (N, S, S, 3): square, RGB (of "
                "clips frame after frame)"
            )
        if len(captions) != len(pictures):
            raise InputError(f"captions: {len(captions)} of them for {len(pictures)} pictures")
        if keys is not None and len(keys) != len(pictures):
            raise InputError(f"keys: {len(keys)} of them for {len(pictures)} pictures")
        if questions and len(questions) != len(pictures):
            raise InputError(f"questions: of {len(questions)} rows for {len(pictures)} pictures")
        self._pictures, self._captions = pictures, tuple(captions)
        self._questions, self.asks = tuple(questions), any(questions)
        self._keys = tuple(keys) if keys is not None else None
        self.side, self.frames = shape[1], shape[3] // 3

    def __len__(self) -> int:
        return len(self._pictures)

    def block(self, start: int, stop: int) -> PictureBlock:
        """The rows `start` to `stop`."""
        stop = min(stop, len(self))
        names = [f"{index:08d}" for index in range(start, stop)]
        keys = names if self._keys is None else self._keys[start:stop]
        here = slice(start, stop)
        return PictureBlock(keys, self._pictures[here], self._captions[here], self._questions[here])

    def identity(self) -> dict[str, Any]:
        """The hash of all pictures, captions and keys."""
        digest = hashlib.sha256(np.ascontiguousarray(self._pictures).data)
        # Escaped JSON: captions that are not Unicode are bad rows, and must not stop the others.
        digest.update(json.dumps([self._captions, self._keys]).encode())
        if asked := listed_questions(self._questions):
            digest.update(json.dumps(asked).encode())
        return {"kind": "arrays", "side": self.side, "sha256": digest.hexdigest()}


class ScenePictures(_Blocks):
    """The first `count` digit scenes of a sequence, with so many questions each, as a source."""

    def __init__(self, scenes: DigitScenes, count: int, questions: int = 0):
        if count < 1:
            raise InputError(f"count: {count}, expected 1 or more scenes")
        if questions < 0:
            raise InputError(f"questions: {questions}, expected 0 or more of each scene")
        self._scenes, self._count, self._questions = scenes, count, questions
        self.asks = questions > 0
        self.side = scenes.config.size

    def __len__(self) -> int:
        return self._count

    def block(self, start: int, stop: int) -> PictureBlock:
        """The scenes `start` to `stop`."""
        pictures, scenes = self._scenes.pictures(start, min(stop, self._count))
        keys = [f"{self._scenes.split}-{start + offset:08d}" for offset in range(len(scenes))]
        asked: list[tuple[Question, ...]] = []
        if self.asks:
            config, count, seed = self._scenes.config, self._questions, self._scenes.seed
            asked = [
                some_questions(scene, config, count, (seed, start + offset))
                for offset, scene in enumerate(scenes)
            ]
        return PictureBlock(keys, pictures, [scene.caption for scene in scenes], asked)

    def identity(self) -> dict[str, Any]:
        """Settings of the scenes, and a hash of the first few: drawing them may change one day."""
        first = self.block(0, min(16, self._count))
        digest = hashlib.sha256(first.pictures.tobytes())
        digest.update(sha256_of_json(first.captions).encode())
        asked: dict[str, Any] = {}
        if self.asks:
            listed = sha256_of_json(listed_questions(first.questions))
            asked = {"questions": self._questions, "first_questions": listed}
        return {
            "kind": "digit scenes",
            "config": to_plain(self._scenes.config),
            "split": self._scenes.split,
            "seed": self._scenes.seed,
            "combinations": self._scenes.combinations,
            "first_scenes": digest.hexdigest(),
            **asked,
        }
