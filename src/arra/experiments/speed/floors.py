"""What this machine can do: bytes a second that it reads, operations a second that it multiplies.

A lower bound of any time is the slower of the two for the work at hand. Both are measured by what
the libraries at hand reach on large, simple work, the best of several tries: nobody is asked for
more than this machine has shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from arra.experiments.speed.measure import Floors, wait

_MEMORY = 512 << 20
"""Bytes that do not fit into any processor's cache."""
_CACHE = 4 << 20
"""Bytes that fit into a processor's caches."""
_SIDE = 2048
"""Rows and columns of the matrices that are multiplied."""


def measure_floors(device: str = "cpu", *, scale: float = 1.0) -> Floors:
    """Bandwidths and matrix peaks of `device`; takes a few seconds.

    `scale` below 1 makes everything smaller, for a look that need not be right.
    """
    side = max(64, int(_SIDE * scale))
    peak = {"fp32": _peak(torch.float32, side, device), "bf16": _peak(torch.bfloat16, side, device)}
    memory = _bandwidth(max(_CACHE, int(_MEMORY * scale)), device)
    return Floors(memory=memory, cache=max(memory, _bandwidth(_CACHE, device)), peak=peak)


def _best(work: Callable[[], object], tries: int = 8, least: float = 0.02) -> float:
    """Seconds of the fastest call of `work`, repeated within a try until `least` has passed."""
    work()
    wait()
    fastest = float("inf")
    for _ in range(tries):
        count, began = 0, time.perf_counter()
        while count == 0 or time.perf_counter() - began < least:
            work()
            wait()
            count += 1
        fastest = min(fastest, (time.perf_counter() - began) / count)
    return fastest


def _peak(dtype: torch.dtype, side: int, device: str) -> float:
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    return 2 * side**3 / _best(lambda: torch.mm(left, right.t(), out=out))


def _bandwidth(size: int, device: str) -> float:
    values = torch.ones(size // 4096, 1024, dtype=torch.float32, device=device)
    ways: list[Callable[[], object]] = [
        lambda: values.sum(),
        lambda: values.amax(dim=1),
        lambda: torch.mv(values, values[0]),
    ]
    return size / min(_best(way) for way in ways)
