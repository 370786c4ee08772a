"""Each body that LangChain sends is honoured, or refused by the name of the field."""

from __future__ import annotations

from typing import Any

import pytest
from client_bodies import CASES
from fastapi.testclient import TestClient
from sse_reader import read_events, texts


@pytest.fixture(scope="module")
def tiny(make_client: Any) -> TestClient:
    return make_client(api={"served_model_name": ("tiny",)})


@pytest.mark.parametrize(
    ("path", "body", "refused"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_body(tiny: TestClient, path: str, body: dict[str, Any], refused: str | None) -> None:
    response = tiny.post(
        path, json=body, headers={"Authorization": "Bearer EMPTY", "Accept": "application/json"}
    )
    if refused:
        assert response.status_code == (404 if refused == "model" else 400)
        error = response.json()["error"]
        assert error["param"] == refused and error["message"]
    elif body.get("stream"):
        assert response.status_code == 200
        chunks = read_events(response.text)
        assert set(texts(chunks)) == {0}
        with_usage = [chunk for chunk in chunks if chunk.get("usage")]
        assert len(with_usage) == ("stream_options" in body)
    else:
        assert response.status_code == 200, response.text
        answer = response.json()
        assert len(answer["choices"]) == body.get("n", 1) and answer["usage"]["completion_tokens"] >= 1
        assert "error" not in answer and answer["model"] == "tiny"
