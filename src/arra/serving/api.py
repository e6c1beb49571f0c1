"""The server's HTTP interface: what OpenAI's clients speak, and what those who run it ask."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, RedirectResponse
from prometheus_client import CONTENT_TYPE_LATEST

import arra
from arra.data.captions import clean_caption
from arra.serving import errors
from arra.serving.album import Album
from arra.serving.answers import Commission
from arra.serving.config import ServerConfig
from arra.serving.description import ERRORS, EVENTS, describe
from arra.serving.errors import ApiError, told
from arra.serving.manual import manual_page
from arra.serving.metrics import Metrics
from arra.serving.middleware import CLIENT, NOTES, Bodies, Gate, Observer
from arra.serving.requests import Request as PictureRequest
from arra.serving.schemas import Health, ImageRequest, ImagesResponse, Model, Models
from arra.serving.security import Keys, RateLimit
from arra.serving.service import Service, Workshop
from arra.serving.streams import EventStream, Watch, gone

_GRACE = 30.0
"""Seconds that a stream may go on after its pictures' time is up, for readers that are slow."""


@dataclass
class Desk:
    """What the routes share."""

    workshop: Workshop
    config: ServerConfig
    metrics: Metrics
    limit: RateLimit
    album: Album | None
    fingerprints: dict[str, str]

    def service(self, name: str | None) -> Service:
        """The service of this name, the first one for None; an error 404 where there is none."""
        services = self.workshop.services
        if name is None:
            return next(iter(services.values()))
        if name not in services:
            there = ", ".join(services)
            raise ApiError(
                404,
                f"the model {name!r} is not served here; there are: {there}",
                param="model",
                code="model_not_found",
            )
        return services[name]

    def model(self, service: Service) -> Model:
        """What clients are told of a service."""
        return Model(
            id=service.name,
            created=service.created,
            size=_size(service),
            units=service.model.generator.units,
            way=service.way,
            fingerprint=self.fingerprints[service.name],
        )

    def accept(self, body: ImageRequest, client: str) -> Commission:
        """Let a request's pictures wait for their turn; `ApiError`, `Full`, `Draining` or
        `InputError` where that cannot be."""
        service = self.service(body.model)
        self._check(body, service)
        caption = clean_caption(body.prompt, "prompt")
        seed, count = body.first_seed(), body.n or 1
        sampling = body.sampling(self.config.sampling)
        previews = (body.partial_images or 0) if body.stream else 0
        wanted = [
            PictureRequest(caption, seed + i, sampling, client, previews) for i in range(count)
        ]
        for one in (wanted[0], wanted[-1]):
            service.check(one)
        if seconds := self.limit.take(client, count):
            raise ApiError(
                429,
                f"this client may ask for {self.config.rate:g} pictures a minute; wait",
                headers={"Retry-After": str(math.ceil(seconds))},
            )
        watch = Watch(seed, lambda drawing: self.metrics.end(service.name, drawing))
        try:
            drawings = service.submit(wanted, watch.listener)
        except Exception:
            self.limit.give_back(client, count)
            raise
        return Commission(
            service=service,
            drawings=drawings,
            watch=watch,
            caption=caption,
            seed=seed,
            sampling=sampling,
            previews=previews,
            fingerprint=self.fingerprints[service.name],
            until=time.monotonic() + self.config.timeout,
            album=self.album,
            metrics=self.metrics,
        )

    def _check(self, body: ImageRequest, service: Service) -> None:
        most = self.config.prompt_characters
        if len(body.prompt) > most:
            raise ApiError(
                400,
                f"prompt: {len(body.prompt)} characters, expected {most} at most",
                param="prompt",
                code="string_above_max_length",
            )
        most = min(self.config.pictures, service.config.queue)
        if body.n is not None and body.n > most:
            raise ApiError(400, f"n: {body.n}, expected {most} at most", param="n")
        if body.response_format not in (None, "b64_json"):
            raise ApiError(
                400,
                "response_format: this server keeps no pictures that a URL could name; expected "
                "b64_json",
                param="response_format",
                code="unsupported_value",
            )
        if body.size not in (None, "auto", size := _size(service)):
            raise ApiError(
                400,
                f"size: {service.name} draws {size}; expected that or auto",
                param="size",
                code="unsupported_value",
            )


def create_app(workshop: Workshop, config: ServerConfig) -> FastAPI:
    """The application of a workshop, which somebody else starts and stops.

    Raises `InputError` for a file of keys or a folder of pictures that cannot be used.
    """
    keys = Keys.read(config.keys) if config.keys is not None else None
    desk = Desk(
        workshop,
        config,
        Metrics(workshop),
        RateLimit(config.rate, config.burst),
        Album(config.save) if config.save is not None else None,
        {name: service.model.fingerprint() for name, service in workshop.services.items()},
    )
    app = FastAPI(
        title="arra",
        version=arra.__version__,
        description="Draws pictures for prompts. Errors have the shape of OpenAI's.",
        docs_url=None,  # FastAPI's page loads scripts from elsewhere
        redoc_url=None,
    )
    app.state.desk = desk
    app.add_api_route(
        "/v1/images/generations",
        draw_pictures,
        methods=["POST"],
        response_model=ImagesResponse,
        responses={**EVENTS, **ERRORS},
        tags=["drawing"],
    )
    app.include_router(_router)
    errors.install(app)
    # The last is the outermost.
    app.add_middleware(Bodies, most=config.body_bytes, seconds=config.body_seconds)
    app.add_middleware(Gate, keys=keys)
    if config.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    app.add_middleware(Observer, metrics=desk.metrics)
    sizes = {_size(service) for service in workshop.services.values()}
    describe(app, config, list(workshop.services), sorted(sizes))
    if config.studio:
        from arra.serving.studio import mount_studio

        app = mount_studio(app, workshop, config)
    return app


def _desk(request: Request) -> Desk:
    return request.app.state.desk


def _size(service: Service) -> str:
    height, width = service.model.size
    return f"{width}x{height}"


# ---- drawing -------------------------------------------------------------------------------------


async def draw_pictures(body: ImageRequest, request: Request) -> Any:
    """Draw pictures for a prompt.

    OpenAI's image generation, with `seed`, `guidance`, `guidance_schedule`, `temperature`, `top_k`
    and `top_p` beside it. The same seed, prompt, settings and model give the same picture.
    """
    desk, notes = _desk(request), request.scope[NOTES]
    if desk.config.log_prompts:
        notes["prompt"] = body.prompt
    commission = desk.accept(body, request.scope[CLIENT])
    count = len(commission.drawings)
    notes |= {"model": commission.service.name, "n": count, "seed": commission.seed}

    def finish(whole: bool) -> None:
        commission.cancel()
        notes["gone"] = not whole

    if body.stream:
        seconds = desk.config.timeout + _GRACE
        return EventStream(commission.events(), seconds, finish)
    answer = asyncio.create_task(commission.response())
    leaver = asyncio.create_task(gone(request.receive))
    try:
        await asyncio.wait({answer, leaver}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        finish(False)
        return Response(status_code=204)  # nobody reads it
    except Exception as error:
        raise told(error) from error
    finally:
        answer.cancel()
        leaver.cancel()
        await asyncio.gather(answer, leaver, return_exceptions=True)
        commission.cancel()


_router = APIRouter(responses=ERRORS)


@_router.get("/v1/models", tags=["drawing"])
async def list_models(request: Request) -> Models:
    """The checkpoints that are served."""
    desk = _desk(request)
    return Models(data=[desk.model(service) for service in desk.workshop.services.values()])


@_router.get("/v1/models/{model}", tags=["drawing"])
async def retrieve_model(model: str, request: Request) -> Model:
    """One of the checkpoints that are served."""
    desk = _desk(request)
    return desk.model(desk.service(model))


# ---- running it ----------------------------------------------------------------------------------


@_router.get("/healthz", tags=["running"])
async def health(request: Request) -> Health:
    """Whether the server lives: what is drawn is drawn, also while it drains."""
    if not _desk(request).workshop.alive:
        raise ApiError(503, "the thread that draws has ended; start the server again")
    return Health(status="ok")


@_router.get("/readyz", tags=["running"])
async def readiness(request: Request) -> Health:
    """Whether the server takes requests; 503 while it drains."""
    if not _desk(request).workshop.ready:
        raise ApiError(503, "the server is about to stop, and takes no more requests")
    return Health(status="ready")


@_router.get(
    "/metrics",
    tags=["running"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Numbers for Prometheus."""
    return Response(_desk(request).metrics.page(), media_type=CONTENT_TYPE_LATEST)


@_router.get("/docs", include_in_schema=False)
async def manual(request: Request) -> HTMLResponse:
    """This interface, as a page."""
    return HTMLResponse(manual_page(request.app.openapi()))


@_router.get("/", include_in_schema=False)
async def home(request: Request) -> RedirectResponse:
    """The page for people."""
    return RedirectResponse("/studio/" if _desk(request).config.studio else "/docs")
