"""The job of `arra serve`: load checkpoints, listen, draw, and stop without dropping anybody."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from arra.errors import InputError
from arra.serving.config import ServerConfig, ServiceConfig

try:
    import uvicorn

    from arra.serving.api import Desk, create_app
except ModuleNotFoundError as error:
    message = f"serve: needs {error.name}; install it with pip install arra[serve]"
    raise InputError(message) from error

from arra.serving.logs import log_as_json, log_fields
from arra.serving.service import Service, Workshop
from arra.text_to_image import TextToImage

log = logging.getLogger("arra.serving")

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
_LAST_WORDS = 3
"""Seconds in which answers are still sent after the patience has ended."""


@dataclass(frozen=True)
class Serving:
    """Which checkpoints are served, and how."""

    checkpoints: Sequence[str]
    """Folders, each alone or behind a name: NAME=PATH."""
    device: str = "cpu"
    server: ServerConfig = field(default_factory=ServerConfig)
    service: ServiceConfig = field(default_factory=ServiceConfig)

    def named(self) -> dict[str, Path]:
        """The folders by the names of their models; `InputError` where a name is bad or there
        twice."""
        found: dict[str, Path] = {}
        for text in self.checkpoints:
            name, equals, path = text.partition("=")
            if not equals or Path(text).exists():
                path = text
                name = _name_of(Path(text))
            if not _NAME.fullmatch(name):
                raise InputError(
                    f"{text}: {name!r} cannot be the name of a model, expected letters, digits, "
                    "'.', '_' and '-'; name it with NAME=PATH"
                )
            if name in found:
                raise InputError(f"{text}: a model named {name} is there already; use NAME=PATH")
            found[name] = Path(path)
        if not found:
            raise InputError("serve: no checkpoint, expected one or more folders")
        return found


def _name_of(folder: Path) -> str:
    """A run's name, for its folder and for the model/ in it."""
    resolved = folder.resolve()
    return resolved.parent.name if resolved.name == "model" else resolved.name


def open_workshop(job: Serving) -> Workshop:
    """Load the checkpoints and make what draws them; not started."""
    return Workshop(
        [
            Service(TextToImage.from_pretrained(path, job.device), job.service, name)
            for name, path in job.named().items()
        ],
        job.server.threads,
    )


def serve(job: Serving) -> None:
    """Serve until the process is told to stop (SIGTERM, SIGINT); then finish what was taken."""
    config = job.server
    workshop = open_workshop(job)
    app = create_app(workshop, config)
    listener = _listen(config)
    if config.exposed and config.keys is None:
        print(
            f"warning: {config.host} can be reached by other machines, and everybody there may "
            "draw; give --keys, or listen at 127.0.0.1",
            file=sys.stderr,
        )
    log_as_json()
    workshop.start()
    for service in workshop.services.values():
        height, width = service.model.size
        print(f"{service.name}: {width}x{height} pixels, {service.way}")
    host, port = listener.getsockname()[:2]
    print(f"listening at {_url(host, port)} (what it speaks: {_url(host, port)}/docs)", flush=True)
    settings = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        ws="none",
        server_header=False,
        limit_concurrency=config.connections,
        timeout_graceful_shutdown=_LAST_WORDS,
    )
    with listener:
        Server(settings, app.state.desk, config.patience).run(sockets=[listener])
    workshop.stop(0)


class Server(uvicorn.Server):
    """Goes on listening and drawing after it was told to stop, until all requests are answered or
    the patience ends; told a second time it has no patience, and a third time no manners."""

    def __init__(self, settings: uvicorn.Config, desk: Desk, patience: float):
        super().__init__(settings)
        self._workshop, self._metrics, self._patience = desk.workshop, desk.metrics, patience
        self._until: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came. uvicorn's own handler would end the process by that signal, later."""
        if self._until is None:
            self._until = time.monotonic() + self._patience
            self._workshop.drain()
        else:
            self.force_exit = self.should_exit
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; whether to close."""
        if self._until is None:
            return await super().on_tick(counter)
        answered = self._workshop.idle and not self._metrics.answering
        if not (answered or self.should_exit or time.monotonic() >= self._until):
            return await super().on_tick(counter)
        stats = self._workshop.stats().values()
        log_fields(log, "stopped", undrawn=sum(one["waiting"] + one["drawing"] for one in stats))
        await asyncio.to_thread(self._workshop.stop, 0)
        return True


def _listen(config: ServerConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=2048)
    except OSError as error:
        raise InputError(
            f"--host {config.host} --port {config.port}: cannot listen there "
            f"({error.strerror or error}); --port 0 picks a free port"
        ) from error


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
