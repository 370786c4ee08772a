"""Load, prefix cache, tokenizer info and /invocations."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from fastapi.testclient import TestClient
from server_process import Server
from transformers import AutoTokenizer

MESSAGES = [{"role": "user", "content": "Hello!"}]


def test_the_prefix_cache_is_emptied_only_where_that_is_allowed(make_client: Any) -> None:
    settings = {"enable_prompt_tokens_details": True}
    client = make_client(api={**settings, "enable_reset_prefix_cache": True})
    body = {"messages": MESSAGES * 4, "max_tokens": 1, "cache_salt": "reset-test"}

    def cached(client: TestClient) -> int:
        answer = client.post("/v1/chat/completions", json=body).json()
        return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert cached(client) == 0 < cached(client)
    closed = make_client(api=settings)
    refusal = closed.post("/reset_prefix_cache")
    assert refusal.status_code == 403 and "--enable-reset-prefix-cache" in refusal.text
    assert cached(closed) > 0
    answer = client.post("/reset_prefix_cache")
    assert answer.status_code == 200 and answer.content == b""
    assert cached(client) == 0


def test_caches_that_are_not_there_are_empty(make_client: Any, client: TestClient) -> None:
    allowed = make_client(api={"enable_reset_prefix_cache": True})
    for path in ("/reset_mm_cache", "/reset_encoder_cache"):
        refusal = client.post(path)
        assert refusal.status_code == 403 and path in refusal.text
        answer = allowed.post(path)
        assert answer.status_code == 200 and answer.content == b""
        assert make_client(http={"api_key": ("k",)}).post(path).status_code == 401


def test_adapters_are_refused_by_name(make_client: Any, client: TestClient) -> None:
    body = {"lora_name": "a", "lora_path": "/b"}
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
        answer = client.post(path, json=body)
        assert answer.status_code == 501
        assert answer.json()["error"]["type"] == "NotImplementedError" and "LoRA" in answer.text
        assert make_client(http={"api_key": ("k",)}).post(path, json=body).status_code == 401


@pytest.mark.parametrize("root_path", ["/llm", "/llm/"])
def test_docs_work_behind_a_proxy_that_takes_the_prefix_away_and_behind_one_that_does_not(
    make_client: Any, root_path: str
) -> None:
    app = make_client(http={"root_path": root_path, "api_key": ("k",)}).app
    client = TestClient(app, headers={"Authorization": "Bearer k"})
    for page in ("/docs", "/redoc"):
        for prefix in ("", "/llm"):
            answer = client.get(prefix + page)
            assert answer.status_code == 200
            assets = re.findall(r"""(?:src|href|url)[=:] ?["\']([^"\']+)""", answer.text)
            assert any(asset.endswith("openapi.json") for asset in assets) or "openapi.json" in answer.text
            assert len([asset for asset in assets if "static" in asset]) >= 2
            for asset in assets:
                assert asset.startswith("/llm/"), asset
                assert client.get(asset).status_code == 200, asset
                assert client.get(asset.removeprefix("/llm")).status_code == 200, asset
    assert TestClient(app).get("/llm/health").status_code == 200
    assert TestClient(app).get("/health").status_code == 200
    assert TestClient(app).get("/v1/models").status_code == 401
    assert client.get("/llm/v1/models").json() == client.get("/v1/models").json()


def test_tokenizer_info(make_client: Any, client: TestClient, mpt_checkpoint: Any) -> None:
    refusal = client.get("/tokenizer_info")
    assert refusal.status_code == 404 and "--enable-tokenizer-info-endpoint" in refusal.text
    info = make_client(api={"enable_tokenizer_info_endpoint": True}).get("/tokenizer_info").json()
    oracle = AutoTokenizer.from_pretrained(mpt_checkpoint)
    assert (info["bos_token"], info["eos_token"], info["pad_token"]) == (
        oracle.bos_token,
        oracle.eos_token,
        None,
    )
    assert (info["bos_token_id"], info["eos_token_id"]) == (oracle.bos_token_id, oracle.eos_token_id)
    stated = json.loads((mpt_checkpoint / "tokenizer_config.json").read_text())["tokenizer_class"]
    assert info["tokenizer_class"] == stated
    assert info["vocab_size"] == len(oracle) and info["model_max_length"] == 256
    assert "Assistant:" in info["chat_template"]


def test_load_counts_requests_in_flight(server: Server) -> None:
    with server.client() as client:
        server.wait_until_idle()
        assert client.get("/load").json() == {"server_load": 0}
        body = {"prompt": ["a"] * 100, "max_tokens": 250, "ignore_eos": True, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as stream:
            lines = stream.iter_lines()  # kept: where the iterator goes, httpx closes the connection
            next(lines)
            assert 90 < client.get("/load").json()["server_load"] <= 100
        server.wait_until_idle()
        assert client.get("/load").json() == {"server_load": 0}


def test_invocations_go_by_the_body(client: TestClient, make_client: Any) -> None:
    greedy = {"temperature": 0, "max_tokens": 5}
    for path, body in (
        ("/v1/chat/completions", {"messages": MESSAGES, **greedy}),
        ("/v1/completions", {"prompt": "One two", **greedy}),
    ):
        direct, called = (client.post(p, json=body).json() for p in (path, "/invocations"))
        assert called["choices"] == direct["choices"] and called["object"] == direct["object"]
    streamed = client.post("/invocations", json={"prompt": "a", "stream": True, "max_tokens": 2})
    assert streamed.text.endswith("data: [DONE]\n\n")
    guarded = make_client(http={"api_key": ("k",)})
    assert guarded.post("/invocations", json={"prompt": "a"}).status_code == 401


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": MESSAGES, "prompt": "a"}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"prompt": "a", "temperature": "hot"}, "temperature"),
        ({"prompt": "a", "temperature": 9}, "temperature"),
    ],
)
def test_invocations_name_what_is_wrong(client: TestClient, body: dict[str, Any], param: str) -> None:
    response = client.post("/invocations", json=body)
    assert response.status_code == 400 and response.json()["error"]["param"] == param
