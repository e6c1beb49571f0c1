"""From the thread that draws to the event loop, and on to clients that read slowly or leave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from arra.serving.requests import ENDED, Drawing


class Watch:
    """Hears of the drawings of one request, for an event loop.

    However slowly its news are read, at most one entry a drawing waits: the newest.
    """

    def __init__(self, first_seed: int, on_end: Callable[[Drawing], None]):
        """Drawings have the seeds `first_seed` and following; `on_end` is called in the loop."""
        self._loop = asyncio.get_running_loop()
        self._first, self._on_end = first_seed, on_end
        self._news: dict[int, tuple[Drawing, bool]] = {}
        self._arrived = asyncio.Event()
        self._shown: dict[int, int] = {}  # by whoever calls `listener`

    def listener(self, drawing: Drawing) -> None:
        """For `Service.submit`: called in the thread that draws, and does not wait."""
        index, ended = drawing.request.seed - self._first, drawing.state in ENDED
        unit = drawing.preview[0] if drawing.preview is not None else 0
        if ended or unit > self._shown.get(index, 0):
            self._shown[index] = unit
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
                self._loop.call_soon_threadsafe(self._note, index, drawing, ended)

    def _note(self, index: int, drawing: Drawing, ended: bool) -> None:
        self._news[index] = drawing, ended
        self._arrived.set()
        if ended:
            self._on_end(drawing)

    async def next(self, seconds: float) -> tuple[int, Drawing, bool] | None:
        """Index, drawing, and whether it ended; else it has a new preview. None: `seconds` passed
        without news."""
        while not self._news:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), max(seconds, 0.0))
            except TimeoutError:
                return None
        index = next(iter(self._news))
        return index, *self._news.pop(index)


async def gone(receive: Receive) -> None:
    """Return when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events, until they end, the client goes away, or reads nothing for too long."""

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncIterator[bytes], seconds: float, finish: Callable[[bool], None]
    ):
        """At most `seconds` from the first event to the last; `finish` is called in any case, with
        whether all events were sent."""
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._seconds, self._finish = events, seconds, finish

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        sender = asyncio.create_task(self._send(send))
        leaver = asyncio.create_task(gone(receive))
        try:
            await asyncio.wait({sender, leaver}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sent = sender.done() and not sender.cancelled() and sender.exception() is None
            sender.cancel()
            leaver.cancel()
            await asyncio.gather(sender, leaver, return_exceptions=True)
            self._finish(sent)

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        async with asyncio.timeout(self._seconds):
            await send(start)
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
