"""Pictures on their way to the page: the workshop's thread leaves them here, the page fetches them.

The workshop never waits: what nobody fetches in time is replaced by what is newer.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from arra.errors import ArraError
from arra.serving.engine import FusedEngine
from arra.serving.requests import ENDED, Drawing, Request
from arra.serving.service import Service
from arra.serving.studio.settings import Wish

if TYPE_CHECKING:
    from arra.serving.studio.live import Scores

STEPS, FEWEST_STEPS = 64, 8
"""Steps of all pictures of a wish together that are shown, and of each at least: painting them
takes longer than drawing, and others wait."""
_PACE = 0.04  # seconds between two looks: faster than that nobody sees
_PATIENCE = 0.5  # seconds without news after which the page is told how long it has been
_KEPT = 8 << 20  # bytes of one drawing's steps that wait to be shown


class Show:
    """One drawing and what is shown of it."""

    def __init__(self, service: Service, drawing: Drawing, slow: bool):
        self.service, self.drawing = service, drawing
        height, width = service.model.size
        room = max(1, min(STEPS, _KEPT // (3 * height * width))) if slow else 1
        # the newest wins: whatever is more than there is room for falls out on the left
        self._steps: deque[tuple[int, np.ndarray]] = deque(maxlen=room)
        rows, columns = service.model.generator.grids[-1]
        places = prod(service.model.generator.codes_shape) == rows * columns
        self.stepwise = places and isinstance(service.engine, FusedEngine)
        """Whether it is seen unit by unit."""
        self._last = 0
        self.hurried = False
        """Steps that wait are skipped."""
        self.unit = 0
        """Units that the picture has."""
        self.picture: np.ndarray | None = None
        """(H, W, 3) uint8, what is shown now."""
        self.scores: Scores | None = None
        """How well its states are aligned, where somebody scores it."""

    def hear(self) -> None:
        """Something changed; in the workshop's thread."""
        preview = self.drawing.preview
        if preview is not None and preview[0] > self._last:
            self._last = preview[0]
            self._steps.append(preview)

    def advance(self) -> None:
        """Show the next step."""
        drawing = self.drawing
        ended = drawing.state in ENDED  # read first: no step comes after it
        if ended and self.hurried:
            self._steps.clear()
        if self._steps:
            self.unit, self.picture = self._steps.popleft()
        elif ended:
            self.unit = drawing.unit
            if drawing.picture is not None:
                self.picture = drawing.picture
        elif not self.stepwise:
            self.unit = drawing.unit

    @property
    def whole(self) -> bool:
        """Whether the picture that is shown is the last one."""
        return self.drawing.state in ENDED and not self._steps and self.unit == self.drawing.unit

    @property
    def more(self) -> bool:
        """Whether steps wait to be shown."""
        return bool(self._steps)

    @property
    def waited(self) -> float:
        """Seconds in the queue; not a number before it left it."""
        return self.drawing.began - self.drawing.arrived

    @property
    def drew(self) -> float:
        """Seconds from the queue to the picture; not a number before that."""
        return self.drawing.ended - self.drawing.began


class Exhibition:
    """All pictures of a wish. It belongs to an event loop."""

    def __init__(self, wish: Wish, services: Mapping[str, Service], client: str):
        """Let the pictures wait for their turn, all or none.

        Raises `InputError` for what cannot be drawn, `Full` and `Draining`.
        """
        self.wish, self.began = wish, time.perf_counter()
        self.shows: list[Show] = []
        self._loop, self._news = asyncio.get_running_loop(), asyncio.Event()
        self._told = False
        by_drawing: dict[Drawing, Show] = {}

        def heard(drawing: Drawing) -> None:  # in the workshop's thread
            if (show := by_drawing.get(drawing)) is not None:
                show.hear()
            self._tell()

        share = max(FEWEST_STEPS, STEPS // (wish.count * len(wish.models)))
        try:
            for name in wish.models:
                service = services[name]
                previews = min(share, service.model.generator.units - 1)
                requests = [
                    Request(wish.prompt, wish.seed + n, wish.sampling, client, previews)
                    for n in range(wish.count)
                ]
                for drawing in service.submit(requests, heard):
                    show = by_drawing[drawing] = Show(service, drawing, wish.slow)
                    self.shows.append(show)
        except ArraError:
            self.cancel()
            raise

    def _tell(self) -> None:
        """Wake the page, once for any number of news that it has not looked at."""
        if self._told:
            return
        self._told = True
        with suppress(RuntimeError):  # the loop is closed, and nobody looks any more
            self._loop.call_soon_threadsafe(self._news.set)

    async def steps(self, timeout: float) -> AsyncIterator[None]:
        """Comes back whenever there is something new to show, the last time when all is shown.

        Drawings that are not done after `timeout` seconds, or that nobody looks at any more, are
        cancelled.
        """
        try:
            while True:
                self._told = False
                self._news.clear()
                for show in self.shows:
                    show.advance()
                yield
                if all(show.whole for show in self.shows):
                    return
                if time.perf_counter() - self.began > timeout:
                    self.cancel()
                await asyncio.sleep(_PACE)
                if not any(show.more for show in self.shows):
                    await _patiently(self._news.wait)
        finally:
            self.cancel()

    def cancel(self) -> None:
        """What is not drawn yet is not wanted any more, and what is drawn is shown at once."""
        for show in self.shows:
            show.hurried = True
            if show.drawing.state not in ENDED:
                show.service.cancel(show.drawing)

    @property
    def seconds(self) -> float:
        """From the first picture's arrival to the last one's end; not a number before that."""
        ends = [show.drawing.ended for show in self.shows]
        return max(ends) - min(show.drawing.arrived for show in self.shows)


async def _patiently(wait: Callable) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(wait(), _PATIENCE)
