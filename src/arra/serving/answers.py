"""What becomes of one request for pictures: waited for whole, or sent while it is drawn."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel

from arra.files import to_plain
from arra.labels import labelled_png
from arra.serving.album import Album
from arra.serving.errors import told
from arra.serving.metrics import Metrics
from arra.serving.requests import Drawing
from arra.serving.schemas import CompletedImage, ImagesResponse, PartialImage, Picture, Usage
from arra.serving.service import Service
from arra.serving.streams import Watch
from arra.settings import SamplingConfig

_SIGN_OF_LIFE = 15.0
"""Seconds without news after which a stream sends a comment, so that nothing between closes it."""


@dataclass
class Commission:
    """Pictures of one request that a service has taken."""

    service: Service
    drawings: list[Drawing]
    watch: Watch
    caption: str
    seed: int
    """Of the first picture."""
    sampling: SamplingConfig
    previews: int
    fingerprint: str
    until: float
    """When the loop's patience ends, in `time.monotonic()`."""
    album: Album | None
    metrics: Metrics

    def __post_init__(self) -> None:
        self.created = int(time.time())
        height, width = self.service.model.size
        self.size = f"{width}x{height}"

    # ---- whole -----------------------------------------------------------------------------------

    async def response(self) -> ImagesResponse:
        """All pictures; the error of the first that fails, and `TimeoutError` when time is up."""
        left = len(self.drawings)
        while left:
            news = await self.watch.next(self.until - time.monotonic())
            if news is None:
                raise TimeoutError(self._late)
            _, drawing, ended = news
            if ended and drawing.state != "done":
                raise drawing.error or RuntimeError("a drawing was cancelled")
            left -= ended
        pictures = [
            Picture(b64_json=await self._finished(drawing), seed=drawing.request.seed)
            for drawing in self.drawings
        ]
        return ImagesResponse(
            created=self.created,
            data=pictures,
            size=self.size,
            usage=self._usage(self.drawings),
            model=self.service.name,
            seed=self.seed,
            sampling=to_plain(self.sampling),
            fingerprint=self.fingerprint,
        )

    @property
    def _late(self) -> str:
        return "the pictures were not drawn in the time that this server gives to a request"

    # ---- as events -------------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[bytes]:
        """Server-sent events: previews and pictures as they come; an error ends them."""
        left = len(self.drawings)
        try:
            while left:
                patience = self.until - time.monotonic()
                news = await self.watch.next(min(_SIGN_OF_LIFE, patience))
                if news is None and patience <= _SIGN_OF_LIFE:
                    raise TimeoutError(self._late)
                if news is None:
                    yield b": waiting\n\n"
                    continue
                index, drawing, ended = news
                if not ended:
                    yield _event(await self._partial(index, drawing))
                    continue
                if drawing.state != "done":
                    raise drawing.error or RuntimeError("a drawing was cancelled")
                left -= 1
                yield _event(await self._completed(index, drawing))
        except Exception as error:
            yield _sse("error", told(error).body.model_dump_json())

    async def _partial(self, index: int, drawing: Drawing) -> PartialImage:
        assert drawing.preview is not None
        unit, picture = drawing.preview
        return PartialImage(
            b64_json=await asyncio.to_thread(self._encoded, picture),
            created_at=self.created,
            size=self.size,
            index=index,
            seed=drawing.request.seed,
            partial_image_index=unit * (self.previews + 1) // drawing.units - 1,
        )

    def _encoded(self, picture: np.ndarray) -> str:
        png = labelled_png(picture, {}, self.service.model.codec.rate)
        return base64.b64encode(png).decode("ascii")

    async def _completed(self, index: int, drawing: Drawing) -> CompletedImage:
        return CompletedImage(
            b64_json=await self._finished(drawing),
            created_at=self.created,
            size=self.size,
            index=index,
            seed=drawing.request.seed,
            usage=self._usage([drawing]),
            model=self.service.name,
            sampling=to_plain(self.sampling),
            fingerprint=self.fingerprint,
        )

    # ---- both ------------------------------------------------------------------------------------

    async def _finished(self, drawing: Drawing) -> str:
        """The whole picture with its label, in base64; written to the album, where there is one."""
        assert drawing.picture is not None
        label = {
            "prompt": self.caption,
            "seed": drawing.request.seed,
            "sampling": to_plain(self.sampling),
            "checkpoint": self.fingerprint,
            "model": self.service.name,
            "precision": self.service.config.precision,
        }
        return await asyncio.to_thread(self._keep, drawing.picture, label)

    def _keep(self, picture: np.ndarray, label: dict[str, Any]) -> str:
        png = labelled_png(picture, label, self.service.model.codec.rate)
        if self.album is not None and not self.album.keep(png, label):
            self.metrics.save_errors.inc()
        return base64.b64encode(png).decode("ascii")

    def _usage(self, drawings: list[Drawing]) -> Usage:
        return Usage.of(len(drawings[0].prompt), sum(d.codes.numel() for d in drawings))

    def cancel(self) -> None:
        """Nobody waits for the pictures any more; those that are whole stay so."""
        for drawing in self.drawings:
            self.service.cancel(drawing)


def _event(body: BaseModel) -> bytes:
    values = body.model_dump()
    return _sse(values["type"], json.dumps(values))


def _sse(name: str, data: str) -> bytes:
    """One server-sent event; JSON stands on one line."""
    return f"event: {name}\ndata: {data}\n\n".encode()
