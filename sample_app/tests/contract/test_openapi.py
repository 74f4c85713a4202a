"""Requests that are made from the OpenAPI document: none breaks the service or the document.

For each operation requests are generated that fit the document, and such that do not. The same
ones each time, and so many that it takes seconds: ``SAMPLE_APP_TEST_EXAMPLES`` asks for more.
"""

from __future__ import annotations

import os
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings

from sample_app.core.config import Settings
from sample_app.core.database import Database
from sample_app.main import create_app
from sample_app.tests.running import RunningClient

schemathesis = pytest.importorskip("schemathesis")
checks = pytest.importorskip("schemathesis.checks")

EXAMPLES: Final = int(os.environ.get("SAMPLE_APP_TEST_EXAMPLES", "10"))
BASE_URL: Final = "http://testserver"


def _operations() -> dict[str, Any]:
    schema = schemathesis.openapi.from_dict(create_app(Settings()).openapi())
    found = (result.ok() for result in schema.get_all_operations())
    return {operation.label: operation for operation in found}


OPERATIONS: Final = _operations()
# Those that look at the response; others send requests of their own, over a network.
CHECKS: Final = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]


@pytest.fixture
def client(settings: Settings, isolated: Database) -> Any:
    """Call an application that answers with a 500 where it breaks."""
    with RunningClient(create_app(settings, isolated), raise_server_exceptions=False) as client:
        yield client


def test_every_endpoint_is_in_the_document() -> None:
    assert sorted(OPERATIONS) == [
        "GET /api/resources",
        "GET /api/resources/after",
        "GET /api/resources/{resource_id}",
        "GET /api/users/by-email",
        "GET /healthz",
        "POST /api/resources",
        "POST /api/resources/process",
        "PUT /api/resources/{resource_id}",
    ]


@pytest.mark.parametrize(
    ("label", "mode"),
    [
        (label, mode)
        for label in OPERATIONS
        for mode in ("positive", "negative")
        # It takes nothing that could be wrong.
        if (label, mode) != ("GET /healthz", "negative")
    ],
)
def test_nothing_breaks(client: RunningClient, label: str, mode: str) -> None:
    operation = OPERATIONS[label]
    kind = schemathesis.GenerationMode(mode)

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=kind))
    def check(case: Any) -> None:
        request = case.as_transport_kwargs(base_url=BASE_URL)
        client.cookies = request.pop("cookies", None) or {}
        if isinstance(request.get("data"), bytes | str):
            request["content"] = request.pop("data")
        response = client.request(**request)
        case.validate_response(response, checks=CHECKS)

    check()
