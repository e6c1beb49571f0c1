"""A tiny checkpoint, and real servers of it on free ports, for the tests of what serves."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image
from transformers import LlamaConfig

from arra.codecs.autoencoder import AutoencoderConfig
from arra.codecs.vq import VQCodec, VQConfig
from arra.serving.api import create_app
from arra.serving.config import ServerConfig, ServiceConfig
from arra.serving.service import Service, Workshop
from arra.text_to_image import TextToImage
from lm_kit import PADDED, SHAPE
from test_decoding import generator_of

PATH = "/v1/images/generations"


@functools.cache
def tiny_model() -> TextToImage:
    """A random model of 3x3 codes whose pictures depend visibly on caption and seed."""
    generator = generator_of(LlamaConfig(**{**SHAPE, "vocab_size": PADDED}))
    codec = VQCodec.seeded(VQConfig(AutoencoderConfig(width=8), vocabulary=16), 0).eval()
    generator.config = replace(generator.config, codec=codec.fingerprint())
    return TextToImage(generator, codec)


@dataclass
class Served:
    """A server that runs in a thread of this process."""

    url: str
    workshop: Workshop
    app: FastAPI

    @property
    def service(self) -> Service:
        return next(iter(self.workshop.services.values()))

    def post(self, timeout: float = 60, headers: dict | None = None, **body) -> httpx.Response:
        """Ask for pictures."""
        return httpx.post(self.url + PATH, json=body, timeout=timeout, headers=headers)

    def get(self, path: str, **options) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30, **options)


@contextlib.contextmanager
def served(
    config: ServerConfig | None = None,
    service: ServiceConfig | None = None,
    names: tuple[str, ...] = ("tiny",),
) -> Iterator[Served]:
    """A real server of the tiny model on a free port."""
    config = config or ServerConfig()
    settings = service or ServiceConfig(slots=16)
    workshop = Workshop([Service(tiny_model(), settings, name) for name in names])
    app = create_app(workshop, config)
    with running(app) as url:
        workshop.start()
        try:
            yield Served(url, workshop, app)
        finally:
            workshop.stop(0)


@contextlib.contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """`app` behind uvicorn in a thread; its address."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started, 10)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


def wait_for(condition, seconds: float = 10) -> None:
    """Wait until `condition()` is true; an error where it does not become so."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


@contextlib.contextmanager
def slowed(service: Service, seconds: float) -> Iterator[None]:
    """Every unit takes `seconds` more."""
    engine, advance = service.engine, service.engine.advance

    def slow() -> bool:
        if engine.live or len(engine.queue):
            time.sleep(seconds)
        return advance()

    engine.advance = slow
    try:
        yield
    finally:
        engine.advance = advance


def pixels(b64: str) -> np.ndarray:
    """(H, W, 3) uint8 of a PNG file in base64."""
    return np.asarray(Image.open(BytesIO(base64.b64decode(b64))))


def label_of(b64: str) -> dict[str, str]:
    """The text chunks of a PNG file in base64."""
    return Image.open(BytesIO(base64.b64decode(b64))).text


def events_of(text: str) -> list[tuple[str, dict]]:
    """Names and data of server-sent events."""
    found = []
    for block in text.strip().split("\n\n"):
        if block.startswith(":"):
            continue
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found
