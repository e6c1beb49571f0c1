"""Captioned clips: video files cut into pieces of equally many frames, a row each.

    source = open_clips("my_videos", Clips(frames=8, rate=4))

A caption is that of the whole video: what a `captions.jsonl` (or a `metadata.csv`) beside it says,
the `.txt` file of the same name, or else the name of the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from arra.data.captions import clean_caption
from arra.data.folders import read_bytes, read_listing, stat_inside, walk
from arra.data.rows import BadRow, ClipRow, Clips, Limits, PictureSource
from arra.data.videos import (
    SUFFIXES,
    Facts,
    FrameReader,
    check_memory,
    check_reader,
    facts_of,
    suffix_of,
)
from arra.errors import InputError
from arra.files import to_plain

LISTINGS = ("captions.jsonl", "metadata.jsonl", "captions.csv", "metadata.csv")
_NO_LIMITS_GIVEN = Limits()


@dataclass(frozen=True)
class Video:
    """A listed file: its path below the folder (with /), its caption, size and time, its frames."""

    name: str
    caption: str
    size: int
    modified: int
    facts: Facts

    def places(self, clips: Clips) -> list[int]:
        """The numbers of the frames that are taken, those of all clips together."""
        if clips.rate is None:
            return list(range(self.facts.frames))
        assert self.facts.rate is not None
        step = self.facts.rate / clips.rate
        count = math.ceil((self.facts.frames - 1e-6) / step)
        # what is a whole number but for its last bit must not be rounded down
        return [math.floor(number * step + 1e-6) for number in range(count)]


class ClipSource(PictureSource):
    """Clips of `clips.frames` frames, file by file."""

    def __init__(
        self, root: Path, videos: list[Video], problems: list[BadRow], limits: Limits, clips: Clips
    ):
        assert clips.frames is not None
        self.root, self.limits, self.clips, self.frames = root, limits, clips, clips.frames
        self.videos: list[Video] = []
        counts = []
        problems = list(problems)
        for video in videos:
            try:
                counts.append(_count(video, clips))
                self.videos.append(video)
            except BadRow as bad:
                problems.append(bad)
        self.problems = tuple(problems)
        self._starts = np.asarray([0, *accumulate(counts)])
        sizes = {(video.facts.width, video.facts.height) for video in self.videos}
        width, height = sizes.pop() if len(sizes) == 1 else (0, 1)
        self.side = width if width == height else None
        known = (video.facts.rate for video in self.videos if video.facts.rate is not None)
        self.rate = clips.rate or next(known, None)
        self._open: tuple[int, FrameReader] | None = None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def read(self, index: int) -> ClipRow:
        self._checked(index)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        video = self.videos[number]
        first = (index - int(self._starts[number])) * (self.clips.stride or self.frames)
        key = f"{video.name}#{video.places(self.clips)[first]}"
        try:
            stat_inside(self.root, video.name)
            return ClipRow.of(key, self._reader(number).clip(first, self.frames), video.caption)
        except BadRow as bad:
            self._open = None  # whatever it has decoded so far is of no use
            raise BadRow(key, bad.reason, bad.detail) from bad

    def _reader(self, number: int) -> FrameReader:
        """The reader of a video; that of the last one stays open."""
        if self._open is None or self._open[0] != number:
            video = self.videos[number]
            places, path = video.places(self.clips), self.root / video.name
            self._open = number, FrameReader(path, video.name, self.limits, places)
        return self._open[1]

    def identity(self) -> dict[str, Any]:
        listing = json.dumps([astuple(video) for video in self.videos])
        return {
            "kind": "clips",
            "path": str(self.root),
            "rows": len(self),
            "sha256": hashlib.sha256(listing.encode("ascii")).hexdigest(),
            "clips": to_plain(self.clips),
            "limits": self.limits.identity(),
        }


def _count(video: Video, clips: Clips) -> int:
    """How many clips a video gives; `BadRow` where it gives none."""
    assert clips.frames is not None
    facts, name = video.facts, video.name
    check_memory(facts, clips.frames, name)
    if clips.rate is not None and facts.rate is None:
        raise BadRow(name, "it does not say how many frames a second it has")
    if clips.rate is not None and facts.rate is not None and clips.rate > facts.rate * 1.001:
        detail = f"{facts.rate:g}, {clips.rate:g} asked"
        raise BadRow(name, "it has fewer frames a second than asked for", detail)
    taken = len(video.places(clips))
    if taken < clips.frames:
        detail = f"{taken} of {clips.frames} frames"
        raise BadRow(name, "the video is shorter than a clip", detail)
    return 1 + (taken - clips.frames) // (clips.stride or clips.frames)


def open_clips(
    source: str | Path,
    clips: Clips,
    *,
    limits: Limits = _NO_LIMITS_GIVEN,
    name_column: str | None = None,
    caption_column: str | None = None,
    split: str | None = None,
) -> ClipSource:
    """The clips of a video file, of a folder of them, or of those that a listing names.

    Args:
        source: a file `.npz` (frames (T, H, W, 3) uint8 and, where known, fps), `.mp4`, `.mov`,
            `.webm`, `.mkv` or `.avi`; a folder of such; or a `captions.jsonl` or `.csv` of them.
        clips: how they are cut; `frames` must be given.
        limits: what is accepted, of a frame as of a picture, of a file as of a picture's.
        name_column: field of a listing with the names of the files; None recognises it.
        caption_column: field of a listing with the captions; None recognises it.
        split: the rows of this split of a listing, or the folder of that name below `source`.

    Raises:
        InputError: there is nothing of this kind, PyAV is needed and not there, or no video at all
            can be used.
    """
    if clips.frames is None:
        raise InputError("Clips.frames: say how many frames a clip has")
    path = Path(source).expanduser()
    if not path.exists():
        raise InputError(f"{source}: no such file or folder; clips are read from files here")
    path = path.resolve()
    found: tuple[list[Video], list[BadRow]]
    if path.is_dir():
        listings = [path / name for name in LISTINGS if (path / name).is_file()]
        if len(listings) > 1:
            both = " and ".join(listing.name for listing in listings)
            raise InputError(f"{path}: has {both}; keep one, or open the one that is meant")
        if listings:
            root, found = path, _listed(listings[0], limits, name_column, caption_column, split)
        else:
            root = _below(path, split)
            found = _unlisted(root, walk(root), limits)
    elif path.suffix.lower() in (".jsonl", ".csv"):
        root, found = path.parent, _listed(path, limits, name_column, caption_column, split)
    elif suffix_of(path.name) in SUFFIXES:
        root, found = path.parent, _single(path, limits, name_column, caption_column)
    else:
        formats = ", ".join(SUFFIXES)
        raise InputError(f"{path}: expected a folder, a listing, or a video: {formats}")
    opened = ClipSource(root, *found, limits, clips)
    if not len(opened):
        first = "; ".join(str(problem) for problem in opened.problems[:5]) or "there are no videos"
        raise InputError(f"{source}: no clip that can be used: {first}")
    return opened


def _below(path: Path, split: str | None) -> Path:
    if split is None:
        return path
    below = (path / split).resolve()
    if not (below.is_dir() and below.is_relative_to(path) and below != path):
        raise InputError(f"{path}: split {split!r} asks for a folder of that name in it")
    return below


def _listed(
    path: Path, limits: Limits, name_column: str | None, caption_column: str | None,
    split: str | None,
) -> tuple[list[Video], list[BadRow]]:  # fmt: skip
    """The videos that a listing names, relative to its own folder."""
    root = path.parent
    names, unwalked = walk(root)
    check_reader(names, path)
    listing = read_listing(
        path, limits, name_column, caption_column, split, lambda name: _facts(root, name, limits)
    )
    videos = [Video(name, caption, *place) for name, caption, place, _ in listing.rows]
    unlisted = [
        BadRow(name, "the video has no caption", f"no row of {path.name} names it")
        for name in names
        if suffix_of(name) in SUFFIXES and name not in listing.mentioned
    ]
    return videos, [*listing.problems, *unwalked, *unlisted]


def _single(
    path: Path, limits: Limits, name_column: str | None, caption_column: str | None
) -> tuple[list[Video], list[BadRow]]:
    """One video, with its caption from the listing beside it where one names it."""
    for listing in (path.with_name(name) for name in LISTINGS):
        if listing.is_file():
            videos, problems = _listed(listing, limits, name_column, caption_column, None)
            if named := [video for video in videos if video.name == path.name]:
                return named, []
            if bad := [bad for bad in problems if path.name in (bad.name, bad.detail)]:
                return [], bad
    return _unlisted(path.parent, ([path.name, f"{path.stem}.txt"], []), limits)


def _unlisted(
    root: Path, walked: tuple[list[str], list[BadRow]], limits: Limits
) -> tuple[list[Video], list[BadRow]]:
    """All videos among the names, with the captions of their `.txt` files or of their names."""
    names, problems = walked[0], list(walked[1])
    check_reader(names, root)
    videos = []
    for name in names:
        if suffix_of(name) not in SUFFIXES:
            continue
        try:
            place = _facts(root, name, limits)
            videos.append(Video(name, _caption(root, name, names, limits), *place))
        except BadRow as bad:
            problems.append(bad)
    return videos, problems


def _facts(root: Path, name: str, limits: Limits) -> tuple[int, int, Facts]:
    status = stat_inside(root, name)
    return status.st_size, status.st_mtime_ns, facts_of(root / name, name, limits)


def _caption(root: Path, name: str, names: Iterable[str], limits: Limits) -> str:
    text = os.path.splitext(name)[0] + ".txt"
    if text in names and (root / text).exists():
        stat_inside(root, text)
        # room for four bytes a character, a byte order mark and some white space around the text
        return clean_caption(read_bytes(root / text, text, 4 * limits.max_caption + 1024), text,
                             limits)  # fmt: skip
    words = re.sub(r"[\W_]+", " ", Path(name).stem)
    return clean_caption(words, name, limits)
