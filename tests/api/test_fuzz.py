"""Whatever JSON comes in: an answer or a refusal with OpenAI's body, never a 500, and the engine lives on."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.protocol.chat import ChatCompletionRequest
from api.protocol.completions import CompletionRequest
from api.protocol.tokenize import DetokenizeRequest, TokenizeRequest
from api.protocol.unsupported import NO_EFFECT, REFUSED

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 5)
    | st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**30, 383, 384])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.sampled_from(["", "text", "auto", "none", "left", "assistant", "\x00", "{{", "è🎉"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
MODELS = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/completions": CompletionRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}
VALID = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
    "/v1/completions": {"prompt": "hi", "max_tokens": 2},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [5]},
}


@st.composite
def bodies(draw: st.DrawFn, path: str) -> dict[str, Any]:
    known = [*MODELS[path].model_fields, *REFUSED, *NO_EFFECT, "some_unknown_field"]
    changes = draw(st.dictionaries(st.sampled_from(known), VALUES, min_size=1, max_size=3))
    if not isinstance(changes.get("max_tokens", 1), int) or changes.get("max_tokens", 1) > 4:
        changes["max_tokens"] = 4
    return {**VALID[path], **changes}


@pytest.mark.parametrize("path", MODELS)
def test_any_body_is_answered_or_refused(client: TestClient, path: str) -> None:
    @settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(bodies(path))
    def check(body: dict[str, Any]) -> None:
        response = client.post(path, json=body)
        assert response.status_code in (200, 400, 404), (body, response.text)
        if response.status_code != 200:
            error = response.json()["error"]
            assert error["message"] and len(response.content) < 4000
            assert "Traceback" not in error["message"]

    check()
    assert client.post(path, json=VALID[path]).status_code == 200
    assert client.get("/health").status_code == 200
