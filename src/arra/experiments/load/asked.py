"""What the clients of a load ask for, when, and which picture each has to get."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from arra.experiments.load.config import SETTINGS
from arra.settings import SamplingConfig
from arra.text_to_image import TextToImage


@dataclass(frozen=True)
class Asked:
    """One request of a pool."""

    number: int
    caption: str | None
    seed: int
    sampling: SamplingConfig


class Pool:
    """Requests, and the picture that `TextToImage.draw` gives for each, drawn alone."""

    def __init__(self, model: TextToImage, captions: Sequence[str], size: int, settings: int):
        self.asked = [
            Asked(n, captions[n % len(captions)], 7919 * n, SETTINGS[n % settings])
            for n in range(size)
        ]
        drawn, seconds = [], []
        for one in self.asked:
            began = time.perf_counter()
            drawn.append(model.draw([one.caption], [one.seed], one.sampling, batch=1))
            seconds.append(time.perf_counter() - began)
        self.pictures = np.concatenate(drawn)
        """(size, H, W, 3) uint8."""
        self.lone = statistics.median(seconds)
        """Seconds of a picture that is drawn alone."""

    def __len__(self) -> int:
        return len(self.asked)

    @property
    def different(self) -> int:
        """How many of the pictures differ from all others: only these show that two were mixed
        up."""
        _, counts = np.unique(self.pictures.reshape(len(self), -1), axis=0, return_counts=True)
        return int((counts == 1).sum())

    def right(self, asked: Asked, picture: np.ndarray) -> bool:
        """Whether this is that request's picture, byte by byte."""
        return bool(np.array_equal(picture, self.pictures[asked.number]))


@dataclass(frozen=True)
class Arrival:
    """A request that comes at some second."""

    at: float
    client: str
    asked: Asked


def poisson(
    pool: Pool, rate: float, seconds: float, clients: int, seed: int, level: int = 0
) -> list[Arrival]:
    """Arrivals of so many clients, `rate` a second together, each client a Poisson process.

    They are a function of the arguments: all ways of answering get the same. Processes that run
    side by side are one Poisson process whose events belong to clients at random.
    """
    random = np.random.default_rng((seed, level))
    count = int(rate * seconds + 6 * (rate * seconds) ** 0.5 + 10)
    times = random.exponential(1 / rate, count).cumsum()
    times = times[times < seconds]
    who, what = random.integers(clients, size=len(times)), random.integers(len(pool))
    return [
        Arrival(float(at), f"client {client}", pool.asked[(what + number) % len(pool)])
        for number, (at, client) in enumerate(zip(times, who, strict=True))
    ]
