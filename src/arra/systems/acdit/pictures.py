"""The picture of the page: clips of every arm, the first of each seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from arra.experiments.plotting import sheet
from arra.systems.acdit.clips import STEPS, right
from arra.systems.acdit.recipe import ARMS

SHOWN = 5
"""Clips side by side; the first of them ask for different steps."""
_GREY, _GREEN = (90, 90, 90), (40, 150, 70)
_ARROWS = "↖↑↗←→↙↓↘"  # of the steps, in their order


def strip(clip: np.ndarray, good: bool) -> np.ndarray:
    """(H + 2, T (W + 1) + 1, 3) uint8: frames (T, H, W) of greys side by side, framed in green
    where the clip moves as asked and in grey otherwise."""
    count, height, width = clip.shape
    found = np.empty((height + 2, count * (width + 1) + 1, 3), np.uint8)
    found[:] = _GREEN if good else _GREY
    for number, frame in enumerate(clip):
        left = 1 + number * (width + 1)
        found[1:-1, left : left + width] = frame[..., None]
    return found


def plot(folder: Path, path: str | Path, seeds: int = 3) -> None:
    """Write the sheet as PNG, from what the claim drew in this folder (`arra reproduce --out`): a
    row for each arm and seed."""
    asked, rows = np.arange(SHOWN) % len(STEPS), []
    for arm in ARMS:
        for seed in range(seeds):
            clips = np.load(folder / f"{arm}-{seed}" / "drawn.npy", allow_pickle=False)[:SHOWN]
            good = right(clips / 255.0, asked)
            strips = [strip(clip, one) for clip, one in zip(clips, good, strict=True)]
            rows.append((f"{arm}, seed {seed}", np.stack(strips)))
    sheet(rows, path, [_ARROWS[way] for way in asked])
