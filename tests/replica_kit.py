"""A replica's inside for tests: a tiny model behind the real interface, which actors import."""

from __future__ import annotations

import os
from typing import Any

from fastapi.responses import PlainTextResponse

from arra.serving.api import create_app
from arra.serving.config import ServerConfig, ServiceConfig
from arra.serving.service import Service, Workshop
from arra.settings import SamplingConfig
from serving_kit import tiny_model

SAMPLING = SamplingConfig(2.0, top_k=6)


def build() -> tuple[Workshop, Any]:
    """A workshop, and its application with routes that say who answers, and stop its workshop."""
    workshop = Workshop([Service(tiny_model(), ServiceConfig(slots=8, queue=64))])
    app = create_app(workshop, ServerConfig(sampling=SAMPLING))

    @app.get("/pid")
    def pid() -> PlainTextResponse:
        return PlainTextResponse(str(os.getpid()))

    @app.post("/stop")
    def stop() -> dict[str, bool]:
        workshop.stop(0)
        return {"stopped": True}

    return workshop, app
