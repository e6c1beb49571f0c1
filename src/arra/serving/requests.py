"""What clients ask for, what becomes of it, and the queue in which it waits."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from arra.errors import ArraError, InputError
from arra.settings import SamplingConfig

State = Literal["waiting", "drawing", "drawn", "done", "failed", "cancelled"]
ENDED = frozenset({"done", "failed", "cancelled"})


class Full(ArraError):
    """The queue is full: try again later."""


@dataclass(frozen=True)
class Request:
    """One picture that somebody wants."""

    caption: str | None
    """What it shows; None is whatever the model likes."""
    seed: int = 0
    """The picture is a function of caption, seed and sampling alone."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    client: str = ""
    """Who asks. Clients take turns, whatever each of them has waiting."""
    previews: int = 0
    """How often the picture is shown while it is drawn, at even intervals."""


class Drawing:
    """A request on its way: its codes so far, and what became of it.

    It belongs to the thread of the engine; others read it, and hear of changes from `listen`.
    """

    def __init__(self, request: Request, prompt: list[int], units: int, codes: int | None = None):
        """`prompt` are the ids that are read before the first unit, `codes` those of the picture,
        which are as many as units unless given."""
        self.request, self.prompt = request, prompt
        self.drawn: list[int] = []
        """Codes that are drawn, in order."""
        self.unit = 0
        """How many units are drawn."""
        self._codes = units if codes is None else codes
        self.units = units
        self.state: State = "waiting"
        self.error: Exception | None = None
        self.picture: np.ndarray | None = None
        """(H, W, 3) uint8, once the state is "done"."""
        self.preview: tuple[int, np.ndarray] | None = None
        """Units that were drawn, and the picture then, (H, W, 3) uint8 with the rest in grey."""
        self.copied = 0
        """Units of the last copy of the codes that was made to be shown."""
        self.slots: tuple[int, ...] = ()
        """Where the engine keeps it; with guidance the second one is the pair's without caption."""
        self.unwanted = False
        """Somebody cancelled it; the engine lets it go before the next unit."""
        self.arrived = time.perf_counter()
        self.began = self.ended = float("nan")
        self._listeners: list[Callable[[Drawing], None]] = []

    def listen(self, listener: Callable[[Drawing], None]) -> None:
        """Call `listener`, in the engine's thread, at every unit and change of the state."""
        self._listeners.append(listener)

    def begin(self) -> None:
        """The first unit is about to be drawn."""
        self.state, self.began = "drawing", time.perf_counter()

    @property
    def codes(self) -> torch.Tensor:
        """(codes,) int64, or float32 of vectors: those that are drawn, -1 where none is yet."""
        missing = self._codes - len(self.drawn)
        return torch.tensor([*self.drawn, *([-1] * missing)])

    def add(self, code: int, last: bool = False) -> None:
        """One more unit of one code; with `last` all that follow are that code, too."""
        self.drawn.append(code)
        self.unit += 1
        if last:
            self.drawn += [code] * (self._codes - len(self.drawn))
            self.unit = self.units

    def end(self, state: State, error: Exception | None = None) -> None:
        """Move on to `state`, and tell who listens."""
        self.state, self.error = state, error
        if state in ENDED:
            self.ended = time.perf_counter()
        self.tell()

    def tell(self) -> None:
        """Tell who listens that something changed."""
        for listener in self._listeners:
            listener(self)


class FairQueue:
    """Drawings that wait: first come, first served for each client, and clients in turn.

    Any thread may use it.
    """

    def __init__(self, limit: int):
        """`limit` is the number of drawings that may wait."""
        if limit < 1:
            raise InputError(f"FairQueue.limit: {limit}, expected 1 or more")
        self.limit = limit
        self._lines: dict[str, deque[Drawing]] = {}
        self._waiting = 0
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return self._waiting

    def push(self, drawings: Sequence[Drawing]) -> None:
        """All of them or none: raises `Full` where not all may wait."""
        with self._lock:
            if self._waiting + len(drawings) > self.limit:
                raise Full(
                    f"{self._waiting} pictures are waiting and {self.limit} may; try again later"
                )
            for drawing in drawings:
                self._lines.setdefault(drawing.request.client, deque()).append(drawing)
            self._waiting += len(drawings)

    def peek(self) -> Drawing | None:
        """Whose turn it is."""
        with self._lock:
            return next((line[0] for line in self._lines.values()), None)

    def pop(self) -> Drawing:
        """Whose turn it is; the next turn is the next client's."""
        with self._lock:
            client, line = next(iter(self._lines.items()))
            del self._lines[client]
            drawing = line.popleft()
            self._waiting -= 1
            if line:
                self._lines[client] = line  # at the end
            return drawing

    def withdraw(self, everybody: bool = False) -> list[Drawing]:
        """Take out who is not wanted any more, or everybody."""
        with self._lock:
            gone = [
                drawing
                for line in self._lines.values()
                for drawing in line
                if everybody or drawing.unwanted
            ]
            for drawing in gone:
                line = self._lines[drawing.request.client]
                line.remove(drawing)
                if not line:
                    del self._lines[drawing.request.client]
            self._waiting -= len(gone)
            return gone
