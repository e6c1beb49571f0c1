"""Clips whose law is known: a digit on a torus that moves by the same step from frame to frame."""

from __future__ import annotations

import numpy as np

from arra.experiments.digits import digits
from arra.metrics.frechet import sample_distance

STEPS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))
"""Rows and columns that a digit moves by."""
_COMPONENTS = 32


def clips(count: int, frames: int, seed: int, held_out: bool) -> tuple[np.ndarray, np.ndarray]:
    """(N, T, 8, 8) greys in [0, 1] and the (N,) digits: digit, place and step are drawn by `seed`,
    from training digits or held-out ones."""
    known, random = digits()[held_out], np.random.default_rng([seed, held_out])
    which = random.integers(len(known.labels), size=count)
    grey = known.pictures[which, :, :, 0] / 255.0
    side = grey.shape[1]
    begin = random.integers(side, size=(count, 2))
    step = np.array(STEPS)[random.integers(len(STEPS), size=count)]
    at = np.arange(side)
    found = []
    for frame in range(frames):
        rows, columns = ((at - (begin + frame * step)[:, [axis]]) % side for axis in (0, 1))
        found.append(grey[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None]])
    return np.stack(found, axis=1), known.labels[which]


def shifts(drawn: np.ndarray) -> np.ndarray:
    """(N, T - 1, 2) by how many rows and columns, -4 to 3, each frame of clips (N, T, H, W) is
    moved to be most like the next: the largest circular cross-correlation."""
    frames = np.fft.fft2(drawn)
    alike = np.fft.ifft2(frames[:, :-1].conj() * frames[:, 1:]).real
    best = alike.reshape(*alike.shape[:2], -1).argmax(axis=2)
    where = np.stack(np.unravel_index(best, alike.shape[2:]), axis=-1)
    size = np.array(alike.shape[2:])
    return (where + size // 2) % size - size // 2


def consistent(drawn: np.ndarray) -> float:
    """Share of clips that move by one of the steps, the same from frame to frame."""
    found = shifts(drawn)
    steady = (found == found[:, :1]).all(axis=(1, 2))
    return float((steady & (np.abs(found[:, 0]).max(axis=1) == 1)).mean())


def frame_distance(drawn: np.ndarray, real: np.ndarray) -> float:
    """Fréchet distance of frames, in the 32 first principal components of real ones."""
    one, other = (x.reshape(-1, x.shape[2] * x.shape[3]) for x in (real, drawn))
    mean = one.mean(axis=0)
    axes = np.linalg.svd(one - mean, full_matrices=False)[2][:_COMPONENTS]
    return sample_distance((one - mean) @ axes.T, (other - mean) @ axes.T)


