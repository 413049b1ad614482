"""Schemathesis against the server's own OpenAPI schema: requests that fit it and requests that do not."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from fourfold.serving.api.keys import collect_keys
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.engine.engine import Engine
from tests.serving.api.live import Live, live_server

KEY = "admin-key-0123456789"


@pytest.fixture(scope="module")
def server(tiny_engine: Engine) -> Iterator[Live]:
    """With an admin key, so that the adapter routes are reached as well."""
    limits = ServerLimits(max_tokens=4, default_max_tokens=4)  # answers are not the point here
    with live_server(tiny_engine, keys=collect_keys([], None, {"FOURFOLD_ADMIN_KEY": KEY}), limits=limits) as server:
        yield server


@pytest.fixture(scope="module")
def schema(server: Live) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers={"Authorization": f"Bearer {KEY}"})


# Left out on purpose: `positive_data_acceptance`, because a schema cannot say which strings are images, model names or
# directories of adapters, so most generated requests are rightly refused.
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]
OPERATIONS = {
    "/v1/chat/completions": "POST",
    "/v1/responses": "POST",
    "/v1/messages": "POST",
    "/v1/messages/count_tokens": "POST",
    "/tokenize": "POST",
    "/detokenize": "POST",
    "/v1/decisions": "POST",
    "/v1/load_lora_adapter": "POST",
    "/v1/unload_lora_adapter": "POST",
    "/v1/models": "GET",
    "/v1/models/{name}": "GET",
    "/health": "GET",
    "/ready": "GET",
    "/live": "GET",
    "/metrics": "GET",
}


def test_every_operation_is_tried(schema: schemathesis.BaseSchema) -> None:
    assert set(schema.raw_schema["paths"]) == set(OPERATIONS)


# Where there is no body, there is nothing to get wrong.
CASES = [
    (path, mode)
    for path, method in OPERATIONS.items()
    for mode in GenerationMode
    if mode.is_positive or method == "POST"
]


@pytest.mark.parametrize(("path", "mode"), CASES)
def test_keeps_to_its_schema(schema: schemathesis.BaseSchema, path: str, mode: GenerationMode) -> None:
    operation = schema[path][OPERATIONS[path]]

    # Most routes translate into this one, which is tried hardest.
    examples = 20 if path == "/v1/chat/completions" else 6

    @settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def keeps(case: schemathesis.Case) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {KEY}"}, checks=CHECKS, timeout=20)

    keeps()
