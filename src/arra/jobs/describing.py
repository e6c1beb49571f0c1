"""The job of `arra describe`: pictures in, text out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arra.data.captions import clean_caption
from arra.data.decode import Fit, decode, fit
from arra.data.folders import read_bytes
from arra.data.rows import Limits
from arra.errors import InputError
from arra.text_to_image import TextToImage


@dataclass(frozen=True)
class Description:
    """What to describe, and how."""

    checkpoint: Path
    pictures: tuple[Path, ...]
    ask: tuple[str, ...] = ()
    """Questions, or beginnings of captions; none asks for captions."""
    most: int = 48
    """Most tokens of a text."""
    fit: Fit = "crop"
    batch: int = 64

    def __post_init__(self) -> None:
        if not self.pictures:
            raise InputError("pictures: none, expected a file or more")
        if self.most < 1 or self.batch < 1:
            raise InputError(f"most {self.most}, batch {self.batch}: expected 1 or more")


@dataclass(frozen=True)
class Said:
    """What was said of a picture."""

    picture: str
    asked: str | None
    """None for a caption."""
    text: str


def describe(job: Description, device: str) -> list[Said]:
    """All texts, picture after picture, for each in the order of what is asked.

    Raises `InputError` for a file that is no picture, an empty question, or a checkpoint that does
    not read.
    """
    asked = [
        clean_caption(text, f"--ask {number}", what="question")
        for number, text in enumerate(job.ask, start=1)
    ]
    model = TextToImage.from_pretrained(job.checkpoint, device)
    prompts: list[str | None] = list(asked) if asked else [None]
    found = []
    for paths, pictures in _batches(job, model):
        texts = [
            model.describe(pictures, None if p is None else [p] * len(paths), most=job.most)
            for p in prompts
        ]
        for number, path in enumerate(paths):
            pairs = zip(prompts, texts, strict=True)
            found += [Said(str(path), prompt, text[number]) for prompt, text in pairs]
    return found


def _batches(job: Description, model: TextToImage) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Some paths at a time, and their pictures (B, H, W, 3) uint8 of the checkpoint's size."""
    limits, (height, width) = Limits(), model.size
    for start in range(0, len(job.pictures), job.batch):
        paths = list(job.pictures[start : start + job.batch])
        pictures = []
        for path in paths:
            image, _ = decode(read_bytes(path, str(path), limits.max_bytes), str(path), limits)
            pictures.append(np.asarray(fit(image, (width, height), job.fit)))
        yield paths, np.stack(pictures)
