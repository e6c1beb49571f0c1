"""Clips whose law is known: a digit on a torus that moves by the same step from frame to frame.

Frames are 6 x 6 pixels and a step is 2 of them: the torus has 3 x 3 places, and of a place's 8
others each is one step away.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from arra.experiments.digits import digits
from arra.metrics.frechet import sample_distance

SIDE, STEP = 6, 2
STEPS = tuple((y, x) for y in (-STEP, 0, STEP) for x in (-STEP, 0, STEP) if (y, x) != (0, 0))
"""Rows and columns that a digit moves by; the number of one is a clip's caption."""
_COMPONENTS = 16


def clips(count: int, frames: int, seed: int, held_out: bool) -> tuple[np.ndarray, np.ndarray]:
    """(N, T, 6, 6) greys in [0, 1] and (N,) which of the steps: digit, place and step are drawn by
    `seed`, from training digits or held-out ones."""
    known, random = digits()[held_out], np.random.default_rng([seed, held_out])
    which = random.integers(len(known.labels), size=count)
    grey = _small(known.pictures[..., 0] / 255.0)[which]
    begin = random.integers(SIDE // STEP, size=(count, 2)) * STEP
    ways = random.integers(len(STEPS), size=count)
    step, at, found = np.array(STEPS)[ways], np.arange(SIDE), []
    for frame in range(frames):
        rows, columns = ((at - (begin + frame * step)[:, [axis]]) % SIDE for axis in (0, 1))
        found.append(grey[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None]])
    return np.stack(found, axis=1), ways


def _small(grey: np.ndarray) -> np.ndarray:
    """(N, 6, 6): means of digits (N, 8, 8) over equal shares of their sides."""
    pictures = torch.from_numpy(grey).float()[:, None]
    return F.interpolate(pictures, size=(SIDE, SIDE), mode="area")[:, 0].numpy()


def shifts(drawn: np.ndarray) -> np.ndarray:
    """(N, T - 1, 2) by how many rows and columns, -3 to 2, each frame of clips (N, T, H, W) is
    moved to be most like the next: the largest circular cross-correlation."""
    frames = np.fft.fft2(drawn)
    alike = np.fft.ifft2(frames[:, :-1].conj() * frames[:, 1:]).real
    best = alike.reshape(*alike.shape[:2], -1).argmax(axis=2)
    where = np.stack(np.unravel_index(best, alike.shape[2:]), axis=-1)
    size = np.array(alike.shape[2:])
    return (where + size // 2) % size - size // 2


def steady(drawn: np.ndarray) -> np.ndarray:
    """(N,) bool: whether a clip moves by one of the steps, the same from frame to frame."""
    found = shifts(drawn)
    same = (found == found[:, :1]).all(axis=(1, 2))
    return same & (found[:, :1] == np.array(STEPS)).all(axis=2).any(axis=1)


def right(drawn: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """(N,) bool: whether it is the step whose number was asked for."""
    return steady(drawn) & (shifts(drawn)[:, 0] == np.array(STEPS)[asked]).all(axis=1)


def frame_distance(drawn: np.ndarray, real: np.ndarray) -> float:
    """Fréchet distance of frames, in the 16 first principal components of real ones."""
    one, other = (x.reshape(-1, x.shape[2] * x.shape[3]) for x in (real, drawn))
    mean = one.mean(axis=0)
    axes = np.linalg.svd(one - mean, full_matrices=False)[2][:_COMPONENTS]
    return sample_distance((one - mean) @ axes.T, (other - mean) @ axes.T)
