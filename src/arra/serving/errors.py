"""What clients are told when something is wrong: OpenAI's errors, with nothing of our insides."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from arra.errors import ArraError, InputError
from arra.serving.requests import Full
from arra.serving.schemas import Error, ErrorBody
from arra.serving.service import Draining

log = logging.getLogger("arra.serving")

_RETRY = {"Retry-After": "1"}  # a place is free as soon as the next picture begins
_TYPES = {
    401: ("authentication_error", "invalid_api_key"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("invalid_request_error", "too_slow"),
    413: ("invalid_request_error", "too_large"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    503: ("server_error", "unavailable"),
    504: ("server_error", "timeout"),
}
# What FastAPI says of JSON that is too deep, or has numbers of thousands of digits.
_UNREADABLE = 400, "There was an error parsing the body"


class ApiError(Exception):
    """An answer with an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        kind, usual = _TYPES.get(
            status, ("invalid_request_error" if status < 500 else "server_error", None)
        )
        self.status, self.headers = status, dict(headers or {})
        self.body = ErrorBody(
            error=Error(message=message, type=kind, param=param, code=code or usual)
        )

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.body.model_dump(), self.status, self.headers)


def told(error: Exception) -> ApiError:
    """What a client is told of an error that ended its request."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Full):
        return ApiError(429, str(error), code="queue_full", headers=_RETRY)
    if isinstance(error, Draining):
        return ApiError(503, str(error), code="draining", headers=_RETRY)
    if isinstance(error, TimeoutError):
        return ApiError(504, str(error))
    if isinstance(error, InputError):
        param = str(error).partition(": ")[0]
        known = param in ("prompt", "seed")
        return ApiError(400, str(error), param=param if known else None, code="invalid_value")
    log.error("a request failed", exc_info=error)
    return ApiError(500, "the picture could not be drawn; the server's log says why")


def of_validation(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a body, in words."""
    first = error.errors()[0]
    kind, place = first["type"], [str(part) for part in first["loc"] if part != "body"]
    if kind == "json_invalid":
        said = f"the body is not JSON: {first.get('ctx', {}).get('error', 'it cannot be read')}"
        return ApiError(400, said, code="invalid_json")
    if not place:
        return ApiError(
            400,
            "the body must be a JSON object, and its Content-Type application/json",
            code="invalid_json",
        )
    name = place[0][:100]
    if kind == "missing":
        return ApiError(400, f"{name}: is missing", param=name, code="missing_required_parameter")
    if kind == "extra_forbidden":
        return ApiError(400, f"{name!r}: no such parameter", param=name, code="unknown_parameter")
    said = str(first["msg"])
    said = said.replace("Input should be ", "expected ").replace("String should have ", "expected ")
    return ApiError(400, f"{name}: {said}", param=name, code="invalid_value")


def install(app: FastAPI) -> None:
    """Answer every error of `app` in one shape."""

    async def ours(request: Request, error: Exception) -> JSONResponse:
        return told(error).response()

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return of_validation(error).response()

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if (error.status_code, error.detail) == _UNREADABLE:
            said, code = "the body is not JSON that can be read", "invalid_json"
            return ApiError(400, said, code=code).response()
        return ApiError(error.status_code, str(error.detail), headers=error.headers).response()

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return ApiError(500, "something went wrong; the server's log says what").response()

    for kind in (ApiError, ArraError):
        app.add_exception_handler(kind, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)
