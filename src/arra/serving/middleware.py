"""What stands around every request: numbers and a line in the log, the key, large and slow
bodies.

Plain ASGI, so that a client who goes away is noticed and streams flow.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arra.serving.errors import ApiError
from arra.serving.logs import log_fields
from arra.serving.metrics import Metrics
from arra.serving.security import Keys

log = logging.getLogger("arra.serving")

NOTES = "arra.notes"
"""Entry of a request's scope: what its route wants in the log. "gone" says that the client left."""
CLIENT = "arra.client"
"""Entry of a request's scope: the name of whose key it has, else the address it comes from."""
GONE = 499
"""The status under which requests are counted whose client went away before the answer."""
_CLOSE = {"Connection": "close"}  # nobody knows how much of the body is still to come
_OPEN = frozenset({"/healthz", "/readyz"})
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "no-referrer",
}


class Observer:
    """Counts and times every request, logs those that matter, and names each in its answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), GONE
        notes: dict[str, Any] = scope.setdefault(NOTES, {})
        name, ours = uuid.uuid4().hex, scope["path"].startswith("/v1/")

        async def outgoing(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for header, value in {**_HEADERS, "X-Request-Id": name}.items():
                    headers.setdefault(header, value)
                if ours:
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        self.metrics.open_requests.inc()
        self.metrics.answering += ours
        try:
            await self.app(scope, receive, outgoing)
        except Exception:
            status = 500
            raise
        finally:
            self.metrics.open_requests.dec()
            self.metrics.answering -= ours
            seconds = time.perf_counter() - began
            if notes.pop("gone", False):
                status = GONE
            route = getattr(scope.get("route"), "path", None) or "other"
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.request_seconds.labels(route).observe(seconds)
            if ours or status >= 400:  # not the parts of pages, nor whoever looks every few seconds
                log_fields(
                    log,
                    "request",
                    id=name,
                    client=scope.get(CLIENT),
                    method=scope["method"],
                    route=route,
                    status=status,
                    seconds=round(seconds, 4),
                    **notes,
                )


class Gate:
    """Asks for a key before anything of a request is read; without keys everybody may pass."""

    def __init__(self, app: ASGIApp, keys: Keys | None):
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        address = scope.get("client")
        scope[CLIENT] = address[0] if address else "unknown"
        if self.keys is not None and scope["path"] not in _OPEN:
            client = self.keys.client(Headers(scope=scope).get("authorization", ""))
            if client is None:
                await self._refuse(scope, receive, send)
                return
            scope[CLIENT] = client
        await self.app(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        # Browsers ask for a password where the answer says Basic: the key is the password.
        asked = "Bearer" if scope["path"].startswith("/v1/") else 'Basic realm="arra"'
        error = ApiError(
            401,
            "a key of this server is needed: Authorization: Bearer KEY",
            headers={"WWW-Authenticate": asked},
        )
        await error.response()(scope, receive, send)


class Bodies:
    """Refuses bodies that are larger than `most` bytes or take longer than `seconds` to arrive.

    Both are seen while the body is read, whatever length it names; of one that names too large a
    length nothing is kept.
    """

    def __init__(self, app: ASGIApp, most: int, seconds: float):
        self.app, self.most, self.seconds = app, most, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        if int(Headers(scope=scope).get("content-length", "0")) > self.most:
            await self._too_large().response()(scope, receive, send)
            return
        until, read, whole = time.monotonic() + self.seconds, 0, False

        # FastAPI, which reads the body, lets errors of this type through to those who answer them.
        async def incoming() -> Message:
            nonlocal read, whole
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), until - time.monotonic())
            except TimeoutError:
                raise HTTPException(408, "the body took too long to arrive", _CLOSE) from None
            read += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if read > self.most:
                raise HTTPException(413, str(self._too_large()), _CLOSE)
            return message

        await self.app(scope, incoming, send)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body has more than {self.most} bytes")
