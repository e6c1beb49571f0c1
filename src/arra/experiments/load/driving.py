"""Putting a load on a target: requests at their times, or clients that ask again and again."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from arra.experiments.load.asked import Arrival, Asked, Pool
from arra.experiments.load.targets import Target
from arra.serving.requests import Full

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Level:
    """What became of the requests of one load."""

    target: str
    rate: float
    """Arrivals a second that were meant; 0 for clients that ask again when they are answered."""
    seconds: float
    """From the first request to the last answer."""
    asked: int
    right: int
    """Pictures that are those which each request gets alone."""
    wrong: int
    """Pictures of somebody else, or broken ones."""
    refused: int
    """Told that the queue is full."""
    failed: int
    """Told another error."""
    lost: int
    """Never answered."""
    overloaded: bool
    """Whether so many waited that the load was cut short."""
    latency: dict[str, float]
    """Seconds from the time at which a request was to come until its answer: percentiles, max."""
    outstanding: float
    """How many requests were there already when one came, on average."""
    longest: int
    """The most of them."""
    work: dict[str, float] = field(default_factory=dict)
    """What was computed: steps, rows, wasted rows."""

    @property
    def throughput(self) -> float:
        """Right pictures a second."""
        return self.right / self.seconds

    @property
    def p95(self) -> float:
        """Seconds; infinite where the load was cut short, or somebody got no right picture."""
        whole = self.right == self.asked and not self.overloaded
        return self.latency["p95"] if whole else math.inf


class _Ledger:
    """Counts answers as they come, from any thread, in memory that does not grow."""

    def __init__(self, pool: Pool, most: int):
        self._pool = pool
        self._latency = np.full(most, np.nan)
        self._lock = threading.Lock()
        self.counts = {"right": 0, "wrong": 0, "refused": 0, "failed": 0}
        self.asked = self.answered = self.longest = self._before = 0
        self.last = time.perf_counter()
        self.changed = threading.Semaphore(0)

    def ask(self, target: Target, asked: Asked, client: str, due: float) -> None:
        """Send a request that was to come at `due`."""
        with self._lock:
            outstanding = self.asked - self.answered
            self._before += outstanding
            self.longest = max(self.longest, outstanding)
            number, self.asked = self.asked, self.asked + 1

        def answer(result: np.ndarray | Exception) -> None:
            now = time.perf_counter()
            if isinstance(result, Full):
                what = "refused"
            elif isinstance(result, Exception):
                what = "failed"
            else:
                what = "right" if self._pool.right(asked, result) else "wrong"
            with self._lock:
                self.counts[what] += 1
                if what in ("right", "wrong"):
                    self._latency[number % len(self._latency)] = now - due
                self.answered += 1
                self.last = now
            self.changed.release()

        target.submit(asked, client, answer)

    @property
    def outstanding(self) -> int:
        return self.asked - self.answered

    def wait(self, patience: float) -> None:
        """Until all are answered, or for so many seconds after the last answer."""
        while self.outstanding and time.perf_counter() - self.last < patience:
            time.sleep(0.002)

    def level(self, target: Target, rate: float, began: float, cut: bool, before: dict) -> Level:
        found = self._latency[np.isfinite(self._latency)]
        shares = {**{f"p{p}": p for p in PERCENTILES}, "max": 100}
        none = not len(found)
        latency = {
            name: math.nan if none else float(np.percentile(found, p)) for name, p in shares.items()
        }
        after = target.work()
        return Level(
            target=target.name,
            rate=rate,
            seconds=self.last - began,
            asked=self.asked,
            **self.counts,
            lost=self.outstanding,
            overloaded=cut,
            latency=latency,
            outstanding=self._before / max(self.asked, 1),
            longest=self.longest,
            work={name: after[name] - before[name] for name in after},
        )


def drive(
    target: Target,
    pool: Pool,
    arrivals: Sequence[Arrival],
    rate: float,
    *,
    most: int = 256,
    patience: float = 60.0,
) -> Level:
    """Send each request at its time, whoever waits already, and wait for all answers.

    Cut short, and overloaded, where more than `most` requests wait. Latency counts from the time
    at which a request was to come, so that a sender which comes too late hides nothing.
    """
    ledger, before = _Ledger(pool, max(len(arrivals), 1)), target.work()
    cut, began = False, time.perf_counter()
    ledger.last = began
    for arrival in arrivals:
        due = began + arrival.at
        if (early := due - time.perf_counter()) > 0:
            time.sleep(early)
        if ledger.outstanding > most:
            cut = True
            break
        ledger.ask(target, arrival.asked, arrival.client, due)
    ledger.wait(patience)
    return ledger.level(target, rate, began, cut, before)


def saturate(
    target: Target, pool: Pool, clients: int, seconds: float, patience: float = 60.0
) -> Level:
    """So many clients, each of whom asks again as soon as it is answered."""
    ledger, before = _Ledger(pool, 1 << 16), target.work()
    began = time.perf_counter()
    ledger.last = began
    for number in range(clients):
        ledger.ask(target, pool.asked[number % len(pool)], f"client {number}", began)
    number = clients
    while time.perf_counter() - began < seconds and ledger.changed.acquire(timeout=patience):
        now = time.perf_counter()
        asked = pool.asked[number % len(pool)]
        ledger.ask(target, asked, f"client {number % clients}", now)
        number += 1
    ledger.wait(patience)
    return ledger.level(target, 0.0, began, False, before)
