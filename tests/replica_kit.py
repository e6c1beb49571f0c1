"""A replica's inside for tests: a tiny model and a small application, which actors import."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from transformers import LlamaConfig

from arra.codecs.autoencoder import AutoencoderConfig
from arra.codecs.vq import VQCodec, VQConfig
from arra.serving.requests import Request
from arra.serving.service import Service, ServiceConfig, Workshop
from arra.settings import SamplingConfig
from arra.text_to_image import TextToImage
from lm_kit import PADDED, SHAPE
from test_decoding import generator_of

SAMPLING = SamplingConfig(2.0, top_k=6)


def model() -> TextToImage:
    generator = generator_of(LlamaConfig(**{**SHAPE, "vocab_size": PADDED}))
    codec = VQCodec.seeded(VQConfig(AutoencoderConfig(width=8), vocabulary=16), 0).eval()
    generator.config = replace(generator.config, codec=codec.fingerprint())
    return TextToImage(generator, codec)


def build() -> tuple[Workshop, Any]:
    """A workshop, and an application that draws with it, says who it is, and breaks."""
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse, Response

    workshop = Workshop([Service(model(), ServiceConfig(slots=8, queue=64))])
    (service,) = workshop.services.values()
    app = FastAPI()

    @app.post("/draw")
    def draw(asked: dict[str, Any]) -> Response:
        picture = service.draw(Request(asked["caption"], asked["seed"], SAMPLING), timeout=60)
        headers = {"X-Pid": str(os.getpid())}
        return Response(picture.tobytes(), media_type="application/octet-stream", headers=headers)

    @app.get("/pid")
    def pid() -> PlainTextResponse:
        return PlainTextResponse(str(os.getpid()))

    @app.post("/die")
    def die() -> None:
        os.kill(os.getpid(), 9)

    @app.post("/stop")
    def stop() -> dict[str, bool]:
        workshop.stop(0)
        return {"stopped": True}

    return workshop, app
