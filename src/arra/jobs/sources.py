"""Sources of captioned pictures by one name, and a sample of them in memory to train parts on."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import cast, get_args

import numpy as np
from PIL import Image

from arra.data.blocks import BlockSource, ScenePictures, Source
from arra.data.clips import open_clips
from arra.data.decode import pixels_of
from arra.data.pictures import open_pictures
from arra.data.prepare import Fit
from arra.data.report import RowReport
from arra.data.rows import BadRow, Question
from arra.data.scenes import DigitScenes, SceneConfig, Split
from arra.errors import InputError
from arra.jobs.options import SourceOptions
from arra.progress import track

MEMORY = 1 << 30
"""Most bytes of pictures that a sample holds."""
_SCENES = re.compile(r"scenes:(\d[\d_]*)")


def is_scenes(source: str) -> bool:
    """Whether `source` asks for digit scenes, as `scenes:20000` does."""
    return source.startswith("scenes:")


def open_source(
    source: str, options: SourceOptions | None = None, scenes: SceneConfig | None = None
) -> Source:
    """The pictures at a path or of a data set's name, or `scenes:N`, the first N digit scenes.

    Where `options.clips` says how many frames a clip has, the videos at a path, cut into clips.
    Raises `InputError` when there is nothing of this kind.
    """
    options = options or SourceOptions()
    if options.clips.frames is not None:
        return open_clips(
            source,
            options.clips,
            limits=options.limits,
            name_column=options.image_column,
            caption_column=options.caption_column,
            split=options.split,
        )
    if is_scenes(source):
        match = _SCENES.fullmatch(source)
        if match is None:
            raise InputError(f"{source}: expected scenes:NUMBER, such as scenes:20000")
        split = options.split or "train"
        if split not in get_args(Split):
            raise InputError(f"split: {split!r}, expected one of {', '.join(get_args(Split))}")
        endless = DigitScenes(scenes, cast(Split, split), seed=options.scene_seed)
        return ScenePictures(endless, int(match[1]), options.scene_questions)
    return open_pictures(
        source,
        limits=options.limits,
        image_column=options.image_column,
        caption_column=options.caption_column,
        split=options.split,
        classes=options.classes,
    )


@dataclass(frozen=True)
class Sample:
    """Some captioned pictures in memory."""

    pictures: np.ndarray
    """(N, S, S, 3) uint8; (N, S, S, 3 T) where they are clips of T frames."""
    captions: list[str]
    """N captions."""
    questions: list[tuple[Question, ...]] = field(default_factory=list)
    """Those of N rows, or nothing where nobody asks."""

    @property
    def texts(self) -> list[str]:
        """Captions, questions and answers."""
        asked = (one for row in self.questions for one in row)
        return [*self.captions, *(text for one in asked for text in (one.question, one.answer))]

    def head(self, most: int) -> Sample:
        """The first `most` of them."""
        here = slice(most)
        return Sample(self.pictures[here], self.captions[here], self.questions[here])


def sample_pictures(
    source: Source,
    size: int,
    *,
    most: int = 20_000,
    how: Fit = "crop",
    resample: str = "lanczos",
    bad_share: float = 0.1,
    label: str = "read pictures",
) -> Sample:
    """Up to `most` good rows of `source`, chosen evenly by chance, fitted to `size` pixels.

    The choice depends on the number of rows alone. Fewer are taken where they would not fit into
    `MEMORY`. Raises `InputError` when more than `bad_share` of the rows are bad or none is good.
    """
    channels = 3 * getattr(source, "frames", 1)
    most = max(1, min(most, MEMORY // (channels * size * size), len(source)))
    rows = np.sort(np.random.default_rng(0).permutation(len(source))[:most])
    if isinstance(source, BlockSource) and source.side == size:
        return _from_blocks(source, rows, label)
    report = RowReport(bad_share, getattr(source, "problems", ()))
    total = len(source) + len(report.bad)
    report.check(total)
    pictures = np.empty((most, size, size, channels), dtype=np.uint8)
    captions: list[str] = []
    questions: list[tuple[Question, ...]] = []
    filter_ = Image.Resampling[resample.upper()]
    with track(label, most) as task:
        for row in rows.tolist():
            task.advance()
            try:
                found = source.read(row)
            except BadRow as bad:
                report.add(bad)
                report.check(total)
                continue
            pictures[len(captions)] = pixels_of(found, size, how, filter_)
            captions.append(found.caption)
            questions.append(getattr(found, "questions", ()))
    if not captions:
        raise InputError(f"not one of {most} rows can be used: {report.summary()}")
    return Sample(pictures[: len(captions)], captions, questions)


def _from_blocks(source: BlockSource, rows: np.ndarray, label: str) -> Sample:
    """As `sample_pictures` does, of pictures that are arrays already."""
    channels = 3 * getattr(source, "frames", 1)
    pictures = np.empty((len(rows), source.side, source.side, channels), dtype=np.uint8)
    captions: list[str] = []
    questions: list[tuple[Question, ...]] = []
    with track(label, len(rows)) as task:
        for first in range(0, int(rows[-1]) + 1, 1024):
            here = rows[(rows >= first) & (rows < first + 1024)]
            if not len(here):
                continue
            block = source.block(first, int(here[-1]) + 1)
            start = len(captions)
            pictures[start : start + len(here)] = block.pictures[here - first]
            captions += [block.captions[row] for row in (here - first).tolist()]
            if block.questions:
                questions += [block.questions[row] for row in (here - first).tolist()]
            task.advance(len(here))
    return Sample(pictures, captions, questions)
