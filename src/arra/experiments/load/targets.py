"""Ways of answering requests: one at a time, in static batches, or in one running batch."""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np

from arra.errors import ArraError, InputError
from arra.experiments.load.asked import Asked
from arra.generators.fast import decoding
from arra.registry import samplers
from arra.serving.requests import ENDED, Drawing, Request
from arra.serving.service import Service, ServiceConfig, Workshop
from arra.settings import SamplingConfig
from arra.text_to_image import TextToImage

Answer = Callable[[np.ndarray | Exception], None]
"""Is told the picture, or why there is none; once, in any thread, and returns at once."""
_LONG = 10**9  # units: a server draws for as long as it runs, so whatever has to be built pays


class Target(Protocol):
    """What a load is put on."""

    name: str
    options: str
    """What it is, in one line."""

    def submit(self, asked: Asked, client: str, answer: Answer) -> None:
        """Ask for a picture; does not wait for it."""

    def work(self) -> dict[str, float]:
        """Numbers that grow: "steps", "rows" that were computed, those that were "wasted"."""

    def close(self) -> None:
        """End what it started."""


class _Line(ABC):
    """Requests that one thread answers."""

    def __init__(self) -> None:
        self.steps = self.rows = 0
        self.waiting: queue.SimpleQueue[tuple[Asked, Answer] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self.run, name="arra-load-target", daemon=True)
        self._thread.start()

    def submit(self, asked: Asked, client: str, answer: Answer) -> None:
        """See `Target.submit`."""
        self.waiting.put((asked, answer))

    def work(self) -> dict[str, float]:
        """See `Target.work`; pictures of one length waste no row."""
        return {"steps": self.steps, "rows": self.rows, "wasted": 0}

    def close(self) -> None:
        """See `Target.close`."""
        self.waiting.put(None)
        self._thread.join()

    @abstractmethod
    def run(self) -> None:
        """Answer until there comes None."""

    def count(self, steps: int, some: list[Asked]) -> None:
        """Note what was computed for a batch."""
        self.steps += steps
        self.rows += steps * sum(2 if asked.sampling.guided else 1 for asked in some)


class OneAtATime(_Line):
    """First come, first served, each alone: what a plain server does."""

    name = "one at a time"
    options = "TextToImage.draw for each request in turn"

    def __init__(self, model: TextToImage):
        self.model = model
        super().__init__()

    def run(self) -> None:
        """Draw the first in the line, and then the next."""
        while (job := self.waiting.get()) is not None:
            asked, answer = job
            try:
                (picture,) = self.model.draw([asked.caption], [asked.seed], asked.sampling, batch=1)
            except Exception as error:
                answer(error)
                continue
            self.count(self.model.generator.units - 1, [asked])
            answer(picture)


class StaticBatches(_Line):
    """Waits until a batch is full or a window has passed, and draws it to the end.

    The window runs also while another batch is drawn. Only requests with the same settings can be
    in a batch of the generator's sampler; the settings that have waited longest come first.
    """

    name = "static batches"

    def __init__(self, model: TextToImage, rows: int, window: float):
        self.model, self._room, self.window = model, rows, window
        self.options = (
            f"up to {rows} rows, or what came within {1e3 * window:g} ms; the same decoder, the "
            "generator's own sampler, painted together"
        )
        self._stepper = decoding(model.generator, _LONG).stepper
        self._groups: dict[SamplingConfig, deque[tuple[float, Asked, Answer]]] = {}
        self._open = True
        super().__init__()

    def run(self) -> None:
        """Draw batch after batch; after None those that wait, and no more."""
        while self._open or self._groups:
            self._take(block=not self._groups)
            if not self._groups:
                continue
            first = min(self._groups, key=lambda sampling: self._groups[sampling][0][0])
            left = self._groups[first][0][0] + self.window - time.perf_counter()
            full = next((s for s in self._groups if len(self._groups[s]) >= self._most(s)), None)
            if full is None and left > 0 and self._open:
                self._take(block=True, seconds=left)
                continue
            self._answer(first if left <= 0 or full is None else full)

    def _most(self, sampling: SamplingConfig) -> int:
        return max(self._room // (2 if sampling.guided else 1), 1)

    def _take(self, block: bool, seconds: float | None = None) -> None:
        """Take in who has come; with `block` wait for one, up to so many seconds."""
        try:
            while True:
                job = self.waiting.get(block and self._open, seconds)
                if job is None:
                    self._open = False
                    return
                asked, answer = job
                group = self._groups.setdefault(asked.sampling, deque())
                group.append((time.perf_counter(), asked, answer))
                block = False
        except queue.Empty:
            return

    def _answer(self, sampling: SamplingConfig) -> None:
        group = self._groups[sampling]
        batch = [group.popleft() for _ in range(min(len(group), self._most(sampling)))]
        if not group:
            del self._groups[sampling]
        some = [asked for _, asked, _ in batch]
        try:
            pictures = self._draw(some)
        except Exception as error:
            for _, _, answer in batch:
                answer(error)
            return
        for (_, _, answer), picture in zip(batch, pictures, strict=True):
            answer(picture)

    def _draw(self, some: list[Asked]) -> np.ndarray:
        generator = self.model.generator
        codes = samplers[generator.sampler](some[0].sampling)(
            self._stepper,
            [asked.caption for asked in some],
            [asked.seed for asked in some],
            batch=len(some),
        )
        self.count(generator.units - 1, some)
        return self.model.paint(codes.view(len(some), *generator.codes_shape))


class RunningBatch:
    """The engine of `arra serve`."""

    name = "arra serve"

    def __init__(self, model: TextToImage, slots: int, waiting: int):
        """`waiting` requests may wait for a slot."""
        self.service = Service(model, ServiceConfig(slots=slots, queue=waiting))
        self.options = f"{self.service.way}, {slots} rows"
        self.workshop = Workshop([self.service]).start()

    def submit(self, asked: Asked, client: str, answer: Answer) -> None:
        """See `Target.submit`."""

        def listener(drawing: Drawing) -> None:
            if drawing.state not in ENDED:
                return
            if drawing.picture is not None:
                answer(drawing.picture)
            else:
                answer(drawing.error or ArraError(f"the drawing ended as {drawing.state}"))

        request = Request(asked.caption, asked.seed, asked.sampling, client)
        try:
            self.service.submit([request], listener)
        except (ArraError, InputError) as error:
            answer(error)

    def work(self) -> dict[str, float]:
        """See `Target.work`."""
        stats = self.service.stats()
        return {name: stats[name] for name in ("steps", "rows", "wasted")}

    def close(self) -> None:
        """See `Target.close`."""
        self.workshop.stop(0)
