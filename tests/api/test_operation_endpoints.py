"""Load, prefix cache, tokenizer info and /invocations."""

from __future__ import annotations

import json
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
