"""API keys guard every route but the probes."""

from __future__ import annotations

import hmac
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient
from server_process import StartServer

KEYS = ("first-key", "zweiter-schlüssel")


@pytest.fixture(scope="module")
def guarded(make_client: Any) -> TestClient:
    return make_client(http={"api_key": KEYS, "allowed_origins": ("https://page.example",)})


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("path", ["/health", "/ping", "/version"])
def test_probes_are_open(guarded: TestClient, path: str) -> None:
    assert guarded.get(path).status_code == 200


def test_metrics_can_be_opened(make_client: Any) -> None:
    client = make_client(http={"api_key": KEYS, "metrics_without_key": True})
    assert client.get("/metrics").status_code == 200
    assert client.get("/v1/models").status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/x/y"),
        ("GET", "/metrics"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/no/such/route"),
        ("GET", "/health//"),
        ("GET", "//health"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("GET", "/tokenizer_info"),
        ("GET", "/load"),
        ("POST", "/reset_prefix_cache"),
        ("POST", "/invocations"),
        ("POST", "/v1/embeddings"),
        ("POST", "//v1/chat/completions"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "/V1/chat/completions"),
        ("POST", "/health/../v1/chat/completions"),
        ("POST", "/%2e/v1/chat/completions"),
        ("POST", "/health%2f..%2fv1/chat/completions"),
        ("POST", "/v1/responses"),
        ("GET", "/v1/responses/resp_1"),
        ("DELETE", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"),
    ],
)
def test_everything_else_needs_a_key(guarded: TestClient, method: str, path: str) -> None:
    for headers in (
        {},
        bearer("wrong"),
        bearer(""),
        {"Authorization": "first-key"},
        {"Authorization": "Basic first-key"},
    ):
        response = guarded.request(method, f"http://testserver{path}", headers=headers)
        assert response.status_code == 401, (path, headers)
        assert response.headers["www-authenticate"] == "Bearer"
        error = response.json()["error"]
        assert error["type"] == "invalid_request_error" and error["code"] == "invalid_api_key"


def test_paths_may_have_the_root_path_or_not(start_server: StartServer) -> None:
    server = start_server("--root-path=/llm", "--api-key=secret")
    for base in ("/v1", "/llm/v1"):
        client = openai.OpenAI(base_url=server.url + base, api_key="secret", max_retries=0)
        [model] = client.models.list().data
        assert client.completions.create(model=model.id, prompt="One", max_tokens=1).usage
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()
    with server.client() as http:
        assert [http.get(path).status_code for path in ("/health", "/llm/health")] == [200, 200]
        assert [http.get(path).status_code for path in ("/llm/llm/health", "/llmhealth")] == [401, 401]
    server.stop()


def test_a_root_path_opens_nothing(make_client: Any) -> None:
    client = make_client(http={"api_key": KEYS, "root_path": "/api"})
    for path in ("/health", "/api/health", "/api/"):
        assert client.get(path).status_code == 200, path
    for path in (
        "/v1/models",
        "/api/v1/models",
        "/api",
        "/apiv1/models",
        "/api/api/v1/models",
        "/api//v1/models",
    ):
        assert client.get(f"http://testserver{path}").status_code == 401, path


def test_any_of_the_keys_opens(guarded: TestClient) -> None:
    assert guarded.get("/v1/models", headers=bearer("first-key")).status_code == 200
    encoded = {"Authorization": b"bearer " + KEYS[1].encode()}
    assert guarded.get("/v1/models", headers=encoded).status_code == 200
    assert guarded.get("/v1/models", headers=bearer("first-key2")).status_code == 401


def test_all_keys_are_compared_every_time(guarded: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(len(b)) or real(a, b))
    for key in (*KEYS[:1], "wrong", "w" * 5000):
        guarded.get("/v1/models", headers=bearer(key))
    assert compared == [32, 32] * 3


def test_preflight_needs_no_key_and_errors_have_cors_headers(guarded: TestClient) -> None:
    origin = {"Origin": "https://page.example"}
    asked = {
        **origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    preflight = guarded.options("/v1/chat/completions", headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://page.example"
    refused = guarded.get("/v1/models", headers=origin)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://page.example"


def test_no_cors_by_default(client: TestClient) -> None:
    response = client.get("/v1/models", headers={"Origin": "https://page.example"})
    assert "access-control-allow-origin" not in response.headers
