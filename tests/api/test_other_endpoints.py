"""Models, tokenizer, health, version, metrics and the schema."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from transformers import AutoTokenizer

from api.serving.model_names import DEMO_ALIAS, DEMO_NAME, ServedModels
from vllm_jax import __version__


def test_models_are_listed_and_retrieved_with_slashes(client: TestClient, mpt_checkpoint: Path) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    [card] = listed["data"]
    assert card["id"] == card["root"] == str(mpt_checkpoint)
    assert card["object"] == "model" and card["max_model_len"] == 256
    assert client.get(f"/v1/models/{mpt_checkpoint}").json() == card
    response = client.get("/v1/models/no/such")
    assert response.status_code == 404 and response.json()["error"]["param"] == "model"


def test_an_empty_name_is_no_name(client: TestClient) -> None:
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ("/v1/completions", {"prompt": "a"}),
        ("/tokenize", {"prompt": "a"}),
    ):
        response = client.post(path, json={**body, "model": "", "max_tokens": 1})
        assert response.status_code == 404 and response.json()["error"]["param"] == "model"


@pytest.mark.parametrize("root_path", ["", "/behind/a/proxy"])
def test_a_slash_at_the_end_changes_nothing(make_client: Any, root_path: str) -> None:
    client = make_client(http={"api_key": ("k",), "root_path": root_path})
    key = {"Authorization": "Bearer k"}
    for path in ("/health", "/version", "/v1/models", "/"):
        plain = client.get(path, headers=key, follow_redirects=False)
        slash = client.get(path.rstrip("/") + "/", headers=key, follow_redirects=False)
        assert (slash.status_code, slash.content) == (plain.status_code, plain.content) and plain.is_success
    assert client.get("/health/").status_code == 200
    asked = client.post("/tokenize/", json={"prompt": "a"}, headers=key, follow_redirects=False)
    assert asked.status_code == 200 and asked.json()["count"] >= 1
    for path in ("/v1/models/", "/v1/completions/", "/metrics/", "/health/x/"):
        assert client.get(path).status_code == 401
    error = client.post("/v1/messages/", json={}, headers=key)
    assert error.status_code == 400 and error.json()["type"] == "error"


def test_served_names_replace_the_path(make_client: Any) -> None:
    client = make_client(api={"served_model_name": ("org/name", "short")})
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["org/name", "short"]
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    for asked, answered in ((None, "org/name"), ("short", "short"), ("org/name", "org/name")):
        assert client.post("/v1/chat/completions", json={**body, "model": asked}).json()["model"] == answered
    path = client.get("/v1/models").json()["data"][0]["root"]
    assert client.post("/v1/chat/completions", json={**body, "model": path}).status_code == 404


def test_the_demo_model_has_its_name_and_an_alias() -> None:
    models = ServedModels.choose("demo", (), 512)
    assert models.names == (DEMO_NAME,) and models.aliases == (DEMO_ALIAS,)
    assert models.resolve(DEMO_ALIAS) == models.resolve(None) == DEMO_NAME
    own, alias = models.list().data
    assert (own.id, own.root, own.parent) == (DEMO_NAME, "demo", None)
    assert (alias.id, alias.root, alias.parent) == (DEMO_ALIAS, DEMO_NAME, DEMO_NAME)
    assert models.card(DEMO_ALIAS) == alias and models.card(DEMO_NAME) == own
    assert ServedModels.choose("demo", ("mine",), 512).aliases == ()


@pytest.mark.parametrize("text", ["Hello world", "perché è già così", "日本 🎉", "<s> a", ""])
def test_tokenize_is_that_of_transformers(client: TestClient, mpt_checkpoint: Path, text: str) -> None:
    oracle = AutoTokenizer.from_pretrained(mpt_checkpoint)
    answer = client.post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    expected = oracle(text)["input_ids"]
    assert answer == {
        "count": len(expected),
        "max_model_len": 256,
        "tokens": expected,
        "token_strs": oracle.convert_ids_to_tokens(expected),
    }
    assert client.post("/detokenize", json={"tokens": expected}).json() == {"prompt": text}


def test_tokenize_of_messages_is_the_prompt_of_the_chat(client: TestClient) -> None:
    messages = [{"role": "user", "content": "Hello!"}]
    tokens = client.post("/tokenize", json={"messages": messages}).json()["tokens"]
    body = {"messages": messages, "max_tokens": 1, "return_token_ids": True}
    assert client.post("/v1/chat/completions", json=body).json()["prompt_token_ids"] == tokens
    open_end = client.post("/tokenize", json={"messages": messages, "add_generation_prompt": False}).json()
    assert open_end["count"] < len(tokens)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [10**6]}, "tokens"),
        ("/detokenize", {"tokens": [2**80]}, "tokens"),
    ],
)
def test_tokenizer_errors(client: TestClient, path: str, body: dict[str, Any], param: str) -> None:
    response = client.post(path, json=body)
    assert response.status_code == 400 and response.json()["error"]["param"] == param


def test_tokenizer_of_an_unknown_model(client: TestClient) -> None:
    assert client.post("/tokenize", json={"prompt": "a", "model": "nope"}).status_code == 404
    assert client.post("/detokenize", json={"tokens": [1], "model": "nope"}).status_code == 404


def test_health_and_version(client: TestClient) -> None:
    for method, path in (("GET", "/health"), ("GET", "/ping"), ("POST", "/ping")):
        response = client.request(method, path)
        assert response.status_code == 200 and response.content == b""
    assert client.get("/version").json() == {"version": __version__}


def test_metrics_are_plain_text_with_the_names_of_vllm(client: TestClient) -> None:
    client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2, "ignore_eos": True})
    response = client.get("/metrics", follow_redirects=False)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    for name in (
        "vllm:num_requests_running",
        "vllm:kv_cache_usage_perc",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:time_to_first_token_seconds_bucket",
        "vllm:inter_token_latency_seconds_count",
        "vllm:e2e_request_latency_seconds_sum",
        'vllm:request_success_total{engine="0",finished_reason="length"',
        "vllm:compilations_total",
        'http_requests_total{handler="/v1/completions",method="POST",status="2xx"}',
        "process_resident_memory_bytes",
        "python_info",
    ):
        assert name in response.text, name


def test_raw_paths_make_no_labels(client: TestClient) -> None:
    client.get("/v1/models/some/unique/name")
    client.get("/another-unique-name")
    text = client.get("/metrics").text
    assert "unique" not in text and 'handler="/v1/models/{model_id:path}"' in text


def test_schema_declares_bodies_and_can_be_switched_off(client: TestClient, make_client: Any) -> None:
    schema = client.get("/openapi.json").json()
    body = schema["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    fields = schema["components"]["schemas"][body["$ref"].rsplit("/", 1)[1]]["properties"]
    assert {"messages", "temperature", "stream", "top_logprobs"} <= set(fields)
    assert "422" not in schema["paths"]["/v1/chat/completions"]["post"]["responses"]
    page = client.get("/docs")
    assert page.status_code == 200
    sources = re.findall(r"""(?:src|href)="([^"]+)""", page.text)
    assert sources and all(source.startswith("/") for source in sources), "nothing comes from elsewhere"
    assert all(client.get(source).status_code == 200 for source in sources)
    closed = make_client(http={"disable_fastapi_docs": True})
    assert [closed.get(path).status_code for path in ("/docs", "/redoc", "/openapi.json")] == [404] * 3
