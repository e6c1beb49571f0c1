"""Frames of one video file: an `.npz` of them, or a file that FFmpeg reads (PyAV, extra `video`).

What is in a file is not trusted. FFmpeg is told the container by the ending of the name and gets
the bytes, never the path: some of its formats are lists of further files or addresses.
"""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from arra.data.arrays import MOST_BYTES, array_header, load_array
from arra.data.folders import read_bytes
from arra.data.rows import BadRow, Limits
from arra.errors import InputError

ARRAY = ".npz"
# Endings of names, and the demultiplexer of FFmpeg that each promises.
CONTAINERS = {
    ".mp4": "mov",
    ".m4v": "mov",
    ".mov": "mov",
    ".webm": "matroska",
    ".mkv": "matroska",
    ".avi": "avi",
}
SUFFIXES = (ARRAY, *CONTAINERS)
DAMAGED = "the video is cut off or damaged"
_SHORTER = "the video ends before the clip does"


@dataclass(frozen=True)
class Facts:
    """What a video file says of itself."""

    frames: int
    width: int
    height: int
    rate: float | None
    """Frames a second, where it says so."""


def suffix_of(name: str) -> str:
    """The ending of a file's name, in small letters."""
    return os.path.splitext(name)[1].lower()


def check_reader(names: Sequence[str], place: object) -> None:
    """`InputError` where one of the names needs FFmpeg and there is none."""
    needing = next((name for name in names if suffix_of(name) in CONTAINERS), None)
    if needing is not None and importlib.util.find_spec("av") is None:
        raise InputError(
            f"{place}: reading {needing} needs PyAV: pip install arra[video]; an .npz of frames "
            "(T, H, W, 3) is read without it"
        )


def facts_of(path: Path, name: str, limits: Limits) -> Facts:
    """Number, size and rate of the frames of a file; nothing is decoded.

    Raises `BadRow` where it is no video, or larger than allowed.
    """
    suffix = suffix_of(name)
    if suffix not in SUFFIXES:
        raise BadRow(name, "its format is not read", f"formats: {', '.join(SUFFIXES)}")
    facts = _array_facts(path, name, limits) if suffix == ARRAY else _facts(path, name, limits)
    if facts.width * facts.height > limits.max_pixels:
        detail = f"{facts.width} x {facts.height} > {limits.max_pixels}"
        raise BadRow(name, "its frames have more pixels than allowed", detail)
    if min(facts.width, facts.height) < limits.min_side:
        detail = f"{facts.width} x {facts.height}, shortest side {limits.min_side}"
        raise BadRow(name, "its frames are smaller than allowed", detail)
    return facts


class FrameReader:
    """Clips of one file: reading them in order decodes every frame once."""

    def __init__(self, path: Path, name: str, limits: Limits, places: Sequence[int]):
        """`places` are the numbers of the frames that are taken, ascending; clips are counted in
        these. Raises `BadRow` where the file cannot be opened."""
        self.path, self.name, self.limits, self.places = path, name, limits, places
        self._array = _array(path, name, limits) if suffix_of(name) == ARRAY else None
        self._kept: dict[int, Image.Image] = {}  # by their numbers among those that are taken
        self._coming: Iterator[tuple[int, Image.Image]] = iter(())
        self._next = len(places)

    def clip(self, first: int, count: int) -> list[Image.Image]:
        """The `count` frames from number `first` of those that are taken; RGB, of one size.

        Raises `BadRow` where they are not there.
        """
        if self._array is not None:
            wanted = self.places[first : first + count]
            if wanted[-1] >= len(self._array):
                raise BadRow(self.name, _SHORTER, f"{len(self._array)} frames")
            return [Image.fromarray(self._array[place]) for place in wanted]
        self._kept = {n: image for n, image in self._kept.items() if n >= first}
        if first not in self._kept and self._next != first:
            self._kept, self._next = {}, first
            self._coming = self._decoded(first)
        while self._next < first + count:
            number, image = next(self._coming, (-1, None))
            if image is None:
                detail = f"{len(self._kept)} of {count} frames"
                raise BadRow(self.name, _SHORTER, detail)
            self._kept[number], self._next = image, number + 1
        found = [self._kept[first + n] for n in range(count)]
        if len({image.size for image in found}) > 1:
            raise BadRow(self.name, "its frames are not of one size")
        return found

    def _decoded(self, first: int) -> Iterator[tuple[int, Image.Image]]:
        """Number among those that are taken, and picture, of every frame from `first` on."""
        import av

        number = first
        with _opened(self.path, self.name, self.limits) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            try:
                for place, frame in enumerate(container.decode(stream)):
                    if number == len(self.places):
                        return
                    if place != self.places[number]:
                        continue
                    if frame.width * frame.height > self.limits.max_pixels:
                        detail = f"{frame.width} x {frame.height} > {self.limits.max_pixels}"
                        raise BadRow(self.name, "its frames have more pixels than allowed", detail)
                    yield number, Image.fromarray(frame.to_ndarray(format="rgb24"))
                    number += 1
            except (av.FFmpegError, ValueError) as error:
                if isinstance(error, BadRow):
                    raise
                raise BadRow(self.name, DAMAGED, str(error)[:200]) from error


def _array_facts(path: Path, name: str, limits: Limits) -> Facts:
    _check_bytes(path, name, limits)
    try:
        shape, dtype = array_header(path, "frames")
    except InputError as error:
        raise BadRow(name, "it has no array frames that can be read", str(error)) from error
    if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8 or 0 in shape:
        expected = "expected uint8 (T, H, W, 3)"
        raise BadRow(name, "its array frames is no video", f"{dtype} {shape}, {expected}")
    return Facts(shape[0], shape[2], shape[1], _array_rate(path, name))


def _array_rate(path: Path, name: str) -> float | None:
    """Frames a second, from the array `fps` (one number) where there is one."""
    try:
        array_header(path, "fps")
    except InputError:  # it is not required
        return None
    found = load_array(path, "fps")
    if found.size != 1 or found.dtype.kind not in "iuf" or not 0 < float(found.item()) < 100_000:
        raise BadRow(name, "its fps is not one number above 0", f"{found.dtype} {found.shape}")
    return float(found.item())


def _array(path: Path, name: str, limits: Limits) -> np.ndarray:
    """All frames (T, H, W, 3) uint8; looked at again, for files change."""
    _array_facts(path, name, limits)
    try:
        return load_array(path, "frames")
    except InputError as error:
        raise BadRow(name, DAMAGED, str(error)) from error


def _check_bytes(path: Path, name: str, limits: Limits) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BadRow(name, "the file cannot be read", error.strerror or str(error)) from error
    if size > limits.max_bytes:
        detail = f"{size} > {limits.max_bytes} bytes"
        raise BadRow(name, "the file is larger than allowed", detail)


def _facts(path: Path, name: str, limits: Limits) -> Facts:
    import av

    with _opened(path, name, limits) as container:
        stream = container.streams.video[0]
        try:
            # containers do not all say how many there are, so the packets are counted
            frames = sum(packet.size > 0 for packet in container.demux(stream))
        except (av.FFmpegError, ValueError) as error:
            raise BadRow(name, DAMAGED, str(error)[:200]) from error
        rate = stream.average_rate
        context = stream.codec_context
        width, height = int(context.width), int(context.height)
        if not (frames and width and height):
            detail = f"{frames} frames of {width} x {height} pixels"
            raise BadRow(name, DAMAGED, detail)
        return Facts(frames, width, height, float(rate) if rate else None)


def _opened(path: Path, name: str, limits: Limits) -> Any:
    """The container, open; to be closed by the caller."""
    import av

    data = read_bytes(path, name, limits.max_bytes)
    try:
        container = av.open(io.BytesIO(data), format=CONTAINERS[suffix_of(name)])
    except (av.FFmpegError, ValueError) as error:
        reason = "not a video of the format that its name says"
        raise BadRow(name, reason, str(error)[:200]) from error
    if not container.streams.video:
        container.close()
        raise BadRow(name, "there is no video in it")
    return container


def check_memory(facts: Facts, frames: int, name: str) -> None:
    """`BadRow` where a clip of this many frames would not fit into memory."""
    taken = 3 * facts.width * facts.height * frames
    if taken > MOST_BYTES:
        raise BadRow(name, "a clip of it is too large for memory", f"{taken} > {MOST_BYTES} bytes")
