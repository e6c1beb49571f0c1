"""Captioned pictures in one NumPy `.npz`: `images` (N, H, W, 3) uint8, with a `captions.jsonl`."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from arra.data.captions import CAPTION_FIELDS, clean_caption, field_of, questions_of
from arra.data.folders import records_of
from arra.data.rows import BadRow, Limits, PictureSource, Question, Row, listed_questions
from arra.errors import InputError

MOST_BYTES = 4 << 30
"""Largest array that is read: it is held in memory whole."""


class ArraySource(PictureSource):
    """Row i of a `captions.jsonl` belongs to picture i of the array (or to its field `index`)."""

    def __init__(self, path: Path, captions: Path, limits: Limits, caption_field: str | None,
                 split: str | None):  # fmt: skip
        self.path, self.limits = path, limits
        shape = _shape(path)
        self.side = shape[1] if shape[1] == shape[2] else None
        if shape[1] * shape[2] > limits.max_pixels:
            raise InputError(f"{path}: pictures of {shape[2]} x {shape[1]} pixels are too large")
        everything, problems, _ = records_of(captions, None)
        if split is not None:
            records_of(captions, split)  # raises where there is no such split
        self.rows: list[tuple[int, str]] = []
        self.questions: list[tuple[Question, ...]] = []
        # A line that is no record keeps its place: the pictures after it must not shift.
        broken = {_line(bad.name) for bad in problems}
        places = iter(sorted([*broken, *(_line(where) for where, _ in everything)]))
        position = {line: index for index, line in enumerate(places)}
        for where, record in everything:
            if split is not None and record.get("split") != split:
                continue
            try:
                index = record.get("index", position[_line(where)])
                if index != position[_line(where)]:
                    raise BadRow(where, "the rows are not in the order of the pictures")
                if index >= shape[0]:
                    raise BadRow(where, "the array has no such picture", f"{index} of {shape[0]}")
                caption = field_of(record, caption_field, CAPTION_FIELDS, where)
                row = index, clean_caption(caption, where, limits)
                self.questions.append(questions_of(record, captions, where, limits))
                self.rows.append(row)
            except BadRow as bad:
                problems.append(bad)
        problems.extend(
            BadRow(f"{path.name}#{index}", "the picture has no caption")
            for index in range(len(position), shape[0])
        )
        self.problems = tuple(problems)
        self.asks = any(self.questions)
        self._images: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": None}

    def read(self, index: int) -> Row:
        picture, caption = self.rows[self._checked(index)]
        if self._images is None:
            self._images = load_array(self.path, "images")
        image, key = Image.fromarray(self._images[picture]), f"{self.path.name}#{picture}"
        return Row(key, image, caption, questions=self.questions[index])

    def identity(self) -> dict[str, Any]:
        status = self.path.stat()
        listing: list[Any] = [status.st_size, status.st_mtime_ns, self.rows]
        listing += listed_questions(self.questions)
        return {
            "kind": "npz",
            "path": str(self.path),
            "rows": len(self),
            "sha256": hashlib.sha256(json.dumps(listing).encode("ascii")).hexdigest(),
            "limits": self.limits.identity(),
        }


def _line(where: str) -> int:
    return int(where.rsplit(" ", 1)[1])


def _shape(path: Path) -> tuple[int, ...]:
    shape, dtype = array_header(path, "images")
    if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8 or 0 in shape:
        raise InputError(f"{path}: images is {dtype} {shape}, expected uint8 (N, H, W, 3)")
    return shape


def array_header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array of an `.npz`, from its header: it may not fit into memory.

    Raises `InputError` where there is no such array or it is larger than `MOST_BYTES`.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            reader = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = reader(member)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path}: no array named {name} in it ({error})") from error
    if int(np.prod(shape, dtype=object)) * dtype.itemsize > MOST_BYTES:
        raise InputError(f"{path}: {name} {shape} is too large for memory; use Parquet or a folder")
    return shape, dtype


def load_array(path: Path, name: str) -> np.ndarray:
    """An array of an `.npz`; nothing is unpickled. Raises `InputError` where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: its array {name} cannot be read ({error})") from error
