"""Captioned clips for a bench of minutes: scikit-learn's digits, each moving one way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from arra.errors import InputError
from arra.experiments.digits import Digits, digits
from arra.files import atomic_folder

WAYS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
"""Rows and columns by which a digit moves, by the word of the caption."""


@dataclass(frozen=True)
class MovingDigits:
    """Clips and what they show."""

    clips: np.ndarray
    """(N, T, S, S, 3) uint8, white on black."""
    captions: list[str]
    """Such as "a seven moving left"."""


def moving_digits(
    count: int,
    frames: int = 8,
    side: int = 32,
    *,
    speed: int = 2,
    seed: int = 0,
    held_out: bool = False,
) -> MovingDigits:
    """`count` clips of a digit half as large as the frame that moves by `speed` pixels a frame.

    Digits, ways and places are drawn by `seed`, digits from the training or the held-out ones. They
    stay inside. Raises `InputError` where there is no room for so many frames.
    """
    digit, room = side // 2, side - side // 2
    path = speed * (frames - 1)
    if min(count, frames, speed) < 1 or digit < 8 or path > room:
        raise InputError(
            f"moving digits: {count} clips of {frames} frames of {side} pixels at speed {speed}; "
            f"expected 1 or more, 16 pixels or more, and a path of at most half a side, not {path}"
        )
    known: Digits = digits()[held_out]
    random = np.random.default_rng([seed, held_out])
    clips = np.zeros((count, frames, side, side, 3), dtype=np.uint8)
    captions = []
    for clip in clips:
        which, way = int(random.integers(len(known.labels))), str(random.choice(list(WAYS)))
        drawn = Image.fromarray(known.pictures[which]).resize((digit, digit), _BILINEAR)
        down, right = (speed * step for step in WAYS[way])
        # where it begins: anywhere from which its whole way lies inside
        row, column = (
            int(
                random.integers(
                    max(0, -step) * (frames - 1), room - max(0, step) * (frames - 1) + 1
                )
            )
            for step in (down, right)
        )
        for number, frame in enumerate(clip):
            y, x = row + number * down, column + number * right
            frame[y : y + digit, x : x + digit] = np.asarray(drawn)
        captions.append(f"a {known.captions[which]} moving {way}")
    return MovingDigits(clips, captions)


_BILINEAR = Image.Resampling.BILINEAR


def write_videos(found: MovingDigits, folder: str | Path, rate: float = 8.0) -> None:
    """A folder as a user may have one: an `.npz` (frames and fps) a clip, and `captions.jsonl`."""
    with atomic_folder(folder) as temporary:
        lines = []
        for number, (clip, caption) in enumerate(zip(found.clips, found.captions, strict=True)):
            name = f"{number:06d}.npz"
            np.savez(temporary / name, frames=clip, fps=np.float32(rate))
            lines.append(json.dumps({"file_name": name, "caption": caption}) + "\n")
        (temporary / "captions.jsonl").write_text("".join(lines), encoding="utf-8")
