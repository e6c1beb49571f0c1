"""The interface does what its own description says, for requests that nobody would think of."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from arra.serving.api import create_app
from arra.serving.config import ServerConfig, ServiceConfig
from arra.serving.service import Service, Workshop
from serving_kit import PATH, tiny_model

BOUNDED = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def operations():
    """All operations of the description, by method and path."""
    service = Service(tiny_model(), ServiceConfig(slots=16, queue=64), "tiny")
    workshop = Workshop([service]).start()
    app = create_app(workshop, ServerConfig(pictures=3, prompt_characters=200))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    found = [result.ok() for result in schema.get_all_operations()]
    yield {(operation.method.upper(), operation.path): operation for operation in found}
    workshop.stop(0)


ROUTES = [
    *(("GET", path) for path in ("/healthz", "/readyz", "/metrics")),
    *(("GET", path) for path in ("/v1/models", "/v1/models/{model}")),
    ("POST", PATH),
]


def test_the_description_names_these_operations(operations):
    assert sorted(operations) == sorted(ROUTES)


CASES = [
    *((route, GenerationMode.POSITIVE) for route in ROUTES),
    (ROUTES[-1], GenerationMode.NEGATIVE),  # the others take nothing that could be wrong
]


def statuses(operation, mode: GenerationMode, **fields: object) -> set[int]:
    """What comes back for requests that the description allows (or not, as `mode` says)."""
    seen = set()

    # one after the other: neither a full queue nor a stop can be a reason for a 5xx
    @BOUNDED
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        if fields:
            case.body |= fields
        seen.add(case.call_and_validate().status_code)

    check()
    assert max(seen) < 500
    return seen


@pytest.mark.parametrize(("route", "mode"), CASES, ids=lambda v: getattr(v, "value", v[-1:]))
def test_an_operation_answers_as_it_is_described(operations, route, mode):
    seen = statuses(operations[route], mode)
    assert (200 in seen) == (mode is GenerationMode.POSITIVE)


def test_events_are_as_they_are_described(operations):
    positive = GenerationMode.POSITIVE
    assert statuses(operations["POST", PATH], positive, stream=True, partial_images=2) == {200}
