"""The OpenAPI description of a server: what the code says, and what only this server knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from arra.serving.config import ServerConfig
from arra.serving.schemas import CompletedImage, ErrorBody, PartialImage

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request is wrong, or comes at a bad time."},
    "5XX": {"model": ErrorBody, "description": "The server cannot draw it."},
}
"""What every operation may answer beside what it is for."""
_REFERENCE = "#/components/schemas/{model}"
_NAMES = ("PartialImage", "CompletedImage", "ErrorBody")
_EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {
            "enum": ["image_generation.partial_image", "image_generation.completed", "error"]
        },
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"oneOf": [{"$ref": _REFERENCE.format(model=n)} for n in _NAMES]},
        },
    },
}
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Pictures; with `stream` server-sent events: "
        "image_generation.partial_image (PartialImage), image_generation.completed "
        "(CompletedImage), and error (ErrorBody), which ends them.",
        "content": {"text/event-stream": {"schema": _EVENT}},
    }
}
"""The answer that draws."""


def describe(
    app: FastAPI, config: ServerConfig, models: Sequence[str], sizes: Sequence[str]
) -> None:
    """Let the description of `app` name its models, their sizes, limits, and the events."""
    made = app.openapi
    events = [(event, "serialization") for event in (PartialImage, CompletedImage)]

    def described() -> dict[str, Any]:
        whole = made()
        schemas = whole["components"]["schemas"]
        schemas |= models_json_schema(events, ref_template=_REFERENCE)[1]["$defs"]  # type: ignore
        fields = schemas["ImageRequest"]["properties"]
        fields["prompt"]["maxLength"] = config.prompt_characters
        fields["n"]["anyOf"][0]["maximum"] = config.pictures
        fields["size"]["anyOf"][0]["enum"] = ["auto", *sizes]
        fields["model"]["anyOf"][0]["enum"] = list(models)
        (model,) = whole["paths"]["/v1/models/{model}"]["get"]["parameters"]
        model["schema"]["enum"] = list(models)
        return whole

    app.openapi = described  # type: ignore[method-assign]
