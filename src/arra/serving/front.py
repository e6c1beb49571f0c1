"""What stands before the replicas: a request whose replica dies is asked again, and errors of Ray's
own have the shape of all others.

Ray Serve gives a request that loses its replica an empty answer, which reaches the client as a bare
"Internal Server Error". Drawing has no side effects and a picture is a function of its request, so
asking again is safe.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

log = logging.getLogger("arra.serving")

TRIES = 3
"""How often a request is asked before its client is told that it failed."""
_KEPT = 1 << 20
"""Bytes of a request that are kept to ask again; larger ones are not asked again."""
_RETRY = "1"
"""Seconds after which a client should try again."""
_DIED = "the replica that drew this died; the same request, sent again, is answered by another one"
_STOPPING = "the server is about to stop or not ready yet, and takes no requests"
_KINDS = {
    429: ("rate_limit_error", "queue_full"),
    503: ("server_error", "unavailable"),
    504: ("server_error", "timeout"),
}
"""Type and code of an error, as `arra.serving.errors` has them; importing it would bring torch."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def middlewares() -> list[Any]:
    """What the proxies of Ray Serve wrap around themselves; `FRONT` names it for them."""
    from starlette.middleware import Middleware

    return [Middleware(Front)]


FRONT = f"{__name__}:{middlewares.__name__}"


class Front:
    """ASGI middleware around the proxy of Ray Serve."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on until there is an answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body, answer = _Body(receive), _Answer(send)
        for _ in range(TRIES):
            # the proxy writes into its scope: each try gets a fresh one
            try:
                await self.app(dict(scope), body.again(), answer.send)
            except Exception:
                log.exception("a request failed on its way to a replica")
            if answer.began or not body.repeatable or body.gone:
                break
        await answer.close()


class _Body:
    """What the client sends, kept so that it can be sent again."""

    def __init__(self, receive: Receive):
        self._receive = receive
        self._kept: list[Message] = []
        self._bytes = 0
        self.gone = False
        """The client has left."""

    @property
    def repeatable(self) -> bool:
        """Whether everything that came is kept."""
        return self._bytes <= _KEPT

    def again(self) -> Receive:
        """What the client sent, from its beginning, and then what it sends now."""
        place = 0

        async def receive() -> Message:
            nonlocal place
            if place < len(self._kept):
                message = self._kept[place]
                place += 1
                return message
            message = await self._receive()
            self.gone = self.gone or message["type"] == "http.disconnect"
            self._bytes += len(message.get("body", b""))
            if not self.gone and self.repeatable:
                self._kept.append(message)
                place += 1
            return message

        return receive


class _Answer:
    """What the client gets."""

    def __init__(self, send: Send):
        self._send = send
        self.began = self._whole = self._streams = False
        self._status: int | None = None
        """Of an error of Ray's, whose text is replaced."""

    async def send(self, message: Message) -> None:
        """Pass a part of the answer on, in our own words where it is an error of Ray's."""
        if message["type"] == "http.response.start":
            self.began = True
            kind = _header(message, b"content-type")
            self._streams = kind.startswith(b"text/event-stream")
            if message["status"] >= 400 and kind.startswith(b"text/plain"):
                self._status = message["status"]
                return
        elif self._status is not None:
            if not message.get("more_body"):
                await self._refuse(*_meaning(self._status))
            return
        elif message["type"] == "http.response.body":
            self._whole = not message.get("more_body")
        await self._send(message)

    async def close(self) -> None:
        """End the answer where nobody else did."""
        if not self.began:
            await self._refuse(503, _DIED)
        elif self._streams and not self._whole:
            event = f"event: error\ndata: {json.dumps(_error(503, _DIED))}\n\n"
            await self._send({"type": "http.response.body", "body": event.encode()})

    async def _refuse(self, status: int, text: str) -> None:
        self.began = self._whole = True
        self._status = None
        headers = [(b"content-type", b"application/json")]
        if status in (429, 503):
            headers.append((b"retry-after", _RETRY.encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        body = json.dumps(_error(status, text)).encode()
        await self._send({"type": "http.response.body", "body": body})


def _header(message: Message, name: bytes) -> bytes:
    return next((bytes(v) for k, v in message.get("headers", ()) if k.lower() == name), b"")


def _meaning(status: int) -> tuple[int, str]:
    """Status and words for an error of Ray's; its routes are unknown while nothing is served."""
    told = {
        408: (504, "the picture was not drawn in time"),
        429: (429, "too many requests are waiting; try again later"),
    }
    return told.get(status, (503, _STOPPING))


def _error(status: int, text: str) -> dict[str, Any]:
    kind, code = _KINDS[status]
    return {"error": {"message": text, "type": kind, "param": None, "code": code}}
