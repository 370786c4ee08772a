"""schemathesis against the served ``/openapi.json``: no request, in the schema or against it, ends in a 500.

Answers also have to be those that the schema declares: their status, their type and their body.
"""

from __future__ import annotations

import contextlib

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = 25
"""Requests for each operation; a long run by hand takes thousands."""
MAX_TOKENS = 4


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_ends_in_a_500_and_answers_follow_the_schema(
    client: TestClient, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 10
    for operation in operations:

        @settings(
            max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.as_strategy(mode))
        def check(case: schemathesis.Case) -> None:
            if isinstance(case.body, dict):  # so that no answer takes long
                for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
                    if isinstance(case.body.get(name), int) and case.body[name] > MAX_TOKENS:
                        case.body[name] = MAX_TOKENS
                if "prompt" in case.body or "messages" in case.body:
                    case.body.setdefault("max_tokens", MAX_TOKENS)
            case.call_and_validate(checks=CHECKS, timeout=120)

        with contextlib.suppress(Unsatisfiable):  # nothing can be wrong about a request without a body
            check()
    assert client.get("/health").status_code == 200
