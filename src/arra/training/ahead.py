"""The next step's batches, made while the present step runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from arra.generators.base import Batch


class Ahead:
    """Batches of one step after the other; those of the next are made in a thread meanwhile.

    `make` is a pure function of the step, so that it does not matter when, or whether, it is asked
    in vain: a run that is resumed begins with another `Ahead`.
    """

    def __init__(self, make: Callable[[int], Sequence[Batch]], steps: range):
        self._make, self._steps = make, steps
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="arra-batches")
        self._next: tuple[int, Future[Sequence[Batch]]] | None = None
        self.waited = 0.0
        """Seconds for which the last call of `take` had to wait."""

    def take(self, step: int) -> Sequence[Batch]:
        """The batches of `step`; making those of the next begins. Raises what `make` raises."""
        began = time.perf_counter()
        if self._next is not None and self._next[0] == step:
            found = self._next[1].result()
        else:
            found = self._make(step)
        self._next = None
        if step + 1 in self._steps:
            self._next = step + 1, self._worker.submit(self._make, step + 1)
        self.waited = time.perf_counter() - began
        return found

    def close(self) -> None:
        """End the thread; what it is making is finished and forgotten."""
        self._worker.shutdown(wait=True, cancel_futures=True)
