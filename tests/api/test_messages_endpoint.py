"""/v1/messages by Anthropic's official client and by hand, against a real engine."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest
from fastapi.testclient import TestClient
from server_process import Server

import api.serving.messages

PATH = "/v1/messages"
USER: list[Any] = [{"role": "user", "content": "Hello!"}]
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}
EXTRA: dict[str, Any] = {"extra_body": GREEDY}  # newer clients have no temperature of their own


@pytest.fixture(scope="module")
def official(server: Server) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key="EMPTY", max_retries=0)


def ask(client: TestClient, status: int = 200, **body: Any) -> dict[str, Any]:
    [model] = [card["id"] for card in client.get("/v1/models").json()["data"]]
    response = client.post(PATH, json={"model": model, "messages": USER, "max_tokens": 8, **body})
    assert response.status_code == status, response.text
    return response.json()


def text_of(message: dict[str, Any]) -> str:
    return "".join(block["text"] for block in message["content"] if block["type"] == "text")


def chat_text(client: TestClient, messages: list[dict[str, Any]], **body: Any) -> str:
    asked = {"messages": messages, "max_tokens": 8, **GREEDY, **body}
    answer = client.post("/v1/chat/completions", json=asked).json()
    return answer["choices"][0]["message"]["content"]


def test_a_message_is_the_answer_of_the_chat(client: TestClient) -> None:
    message = ask(client, system="Be brief.", **GREEDY)
    chat = [{"role": "system", "content": "Be brief."}, *USER]
    assert text_of(message) == chat_text(client, chat)
    assert (
        message["type"] == "message" and message["role"] == "assistant" and message["id"].startswith("msg_")
    )
    assert (message["stop_reason"], message["stop_sequence"]) == ("max_tokens", None)
    tokens = client.post("/tokenize", json={"messages": chat}).json()["count"]
    assert message["usage"] == {
        "input_tokens": tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 8,
    }


def test_blocks_are_the_messages_of_a_chat(client: TestClient) -> None:
    messages = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "2*3?", "cache_control": {"type": "ephemeral"}}],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "text", "text": "I call."},
                {"type": "tool_use", "id": "t1", "name": "mul", "input": {"a": 2, "b": 3}},
                {"type": "tool_use", "id": "t2", "name": "mul", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "6"},
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "content": [{"type": "text", "text": "bad"}],
                    "is_error": True,
                },
                {"type": "text", "text": "Go on."},
            ],
        },
    ]

    def call(call_id: str, arguments: str) -> dict[str, Any]:
        return {"id": call_id, "type": "function", "function": {"name": "mul", "arguments": arguments}}

    chat = [
        {"role": "system", "content": "A\nB"},
        {"role": "user", "content": "2*3?"},
        {
            "role": "assistant",
            "content": "I call.",
            "reasoning": "hm",
            "reasoning_content": "hm",
            "tool_calls": [call("t1", '{"a": 2, "b": 3}'), call("t2", "{}")],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "6"},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: bad"},
        {"role": "user", "content": "Go on."},
    ]
    system = [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]
    assert text_of(ask(client, messages=messages, system=system, **GREEDY)) == chat_text(client, chat)


def test_the_last_message_of_the_assistant_is_continued(client: TestClient) -> None:
    chat = [*USER, {"role": "assistant", "content": "One two"}]
    expected = chat_text(client, chat, continue_final_message=True, add_generation_prompt=False)
    assert text_of(ask(client, messages=chat, **GREEDY)) == expected


def test_reasons_to_stop(client: TestClient) -> None:
    full = text_of(ask(client, **GREEDY))
    stopped = ask(client, stop_sequences=[full[3:5]], **GREEDY)
    assert stopped["stop_reason"] == "stop_sequence" and stopped["stop_sequence"] == full[3:5]
    assert text_of(stopped) == full[: full.index(full[3:5])]
    ended = ask(client, logit_bias={"1": 100}, temperature=0)
    assert (ended["stop_reason"], ended["content"]) == ("end_turn", [])
    filled = ask(client, max_tokens=256, **GREEDY)
    assert filled["stop_reason"] == "model_context_window_exceeded"
    assert filled["usage"]["input_tokens"] + filled["usage"]["output_tokens"] == 256


def test_the_events_of_a_stream(client: TestClient) -> None:
    whole = ask(client, **GREEDY)
    body = {"model": whole["model"], "messages": USER, "max_tokens": 8, "stream": True, **GREEDY}
    response = client.post(PATH, json=body)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = []
    for block in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == "event: " + events[-1]["type"]
    deltas = [event for event in events if event["type"] == "content_block_delta"]
    assert [event["type"] for event in events] == [
        "message_start",
        "ping",
        "content_block_start",
        *["content_block_delta"] * len(deltas),
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["content"] == [] and events[0]["message"]["stop_reason"] is None
    assert events[0]["message"]["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    assert "".join(event["delta"]["text"] for event in deltas) == text_of(whole)
    assert events[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert events[-2]["usage"] == whole["usage"]


@pytest.mark.parametrize(
    ("status", "kind", "says", "body"),
    [
        (400, "invalid_request_error", "max_tokens", {"max_tokens": 0}),
        (400, "invalid_request_error", "max_tokens", {"max_tokens": 10**6}),
        (400, "invalid_request_error", "max_tokens", {"max_tokens": None}),
        (400, "invalid_request_error", "temperature", {"temperature": 3}),
        (400, "invalid_request_error", "messages", {"messages": []}),
        (400, "invalid_request_error", "messages", {"messages": [{"role": "user", "content": "w " * 400}]}),
        (
            400,
            "invalid_request_error",
            "image",
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        ),
        (400, "invalid_request_error", "stop_sequences", {"stop_sequences": list("abcde")}),
        (400, "invalid_request_error", "mcp_servers", {"mcp_servers": [{"url": "http://x"}]}),
        (400, "invalid_request_error", "stop is a field of chats", {"stop": "x"}),
        (400, "invalid_request_error", "response_format", {"response_format": {"type": "json_object"}}),
        (400, "invalid_request_error", "computer", {"tools": [{"type": "computer_1", "name": "c"}]}),
        (400, "invalid_request_error", "tool_choice", {"tool_choice": {"type": "some"}}),
        (404, "not_found_error", "nobody", {"model": "nobody"}),
    ],
)
def test_errors_have_the_clients_shape(
    client: TestClient, status: int, kind: str, says: str, body: dict[str, Any]
) -> None:
    error = ask(client, status, **body)
    assert set(error) == {"type", "error"} and error["type"] == "error"
    assert error["error"]["type"] == kind and says in error["error"]["message"]
    assert ask(client, status, stream=True, **body) == error


def test_keys_and_limits_have_it_too(make_client: Any) -> None:
    guarded = make_client(http={"api_key": ("secret",), "max_body_bytes": 2000})
    body = {
        "model": guarded.get("/v1/models", headers={"Authorization": "Bearer secret"}).json()["data"][0]["id"]
    }
    body |= {"messages": USER, "max_tokens": 1}
    for headers in ({}, {"x-api-key": "wrong"}, {"x-api-key": "secret", "Authorization": "Bearer wrong"}):
        refused = guarded.post(PATH, json=body, headers=headers)
        assert refused.status_code == 401 and refused.json()["error"]["type"] == "authentication_error"
    for headers in ({"x-api-key": "secret"}, {"Authorization": "Bearer secret"}):
        assert guarded.post(PATH, json=body, headers=headers).status_code == 200
    key = {"x-api-key": "secret"}
    assert guarded.post("/v1/chat/completions", json=body, headers=key).status_code == 401
    large = guarded.post(PATH, json={**body, "system": "x" * 3000}, headers=key)
    assert large.status_code == 413 and large.json()["error"]["type"] == "request_too_large"
    missing = guarded.get(PATH + "/nothing", headers=key)
    assert missing.status_code == 404 and missing.json()["error"]["type"] == "not_found_error"
    assert guarded.post("/v1/messagesX", json=body, headers={"Authorization": "Bearer secret"}).json()[
        "error"
    ]["code"]


def test_tokens_are_counted(client: TestClient) -> None:
    message = ask(client, system="Be brief.")
    body = {"model": message["model"], "messages": USER, "system": "Be brief."}
    counted = client.post(f"{PATH}/count_tokens", json=body)
    assert counted.json() == {"input_tokens": message["usage"]["input_tokens"]}


def test_cached_tokens_are_told_apart_where_asked_for(make_client: Any) -> None:
    client = make_client(api={"enable_prompt_tokens_details": True})
    body = {"messages": USER * 3, "cache_salt": "messages-test"}
    tokens = client.post("/tokenize", json={"messages": USER * 3}).json()["count"]
    first, second = ask(client, **body)["usage"], ask(client, **body)["usage"]
    assert first["cache_read_input_tokens"] == 0 < first["cache_creation_input_tokens"]
    assert 0 < second["cache_read_input_tokens"] <= first["cache_creation_input_tokens"]
    kinds = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    for usage in (first, second):
        assert sum(usage[kind] for kind in kinds) == tokens


def test_thinking_and_effort_reach_the_template(make_client: Any) -> None:
    template = "{{ enable_thinking }}|{{ reasoning_effort }}|{{ messages[-1].content }}"
    client = make_client(api={"chat_template": template})
    [model] = [card["id"] for card in client.get("/v1/models").json()["data"]]

    def count(**body: Any) -> int:
        asked = {"model": model, "messages": USER, **body}
        return client.post(f"{PATH}/count_tokens", json=asked).json()["input_tokens"]

    def tokens(text: str) -> int:
        return client.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()["count"]

    assert count(thinking={"type": "enabled", "budget_tokens": 1024}) == tokens("True||Hello!")
    assert count(thinking={"type": "disabled"}) == tokens("False||Hello!")
    assert count(thinking={"type": "adaptive"}) == tokens("||Hello!")
    assert count(output_config={"effort": "high"}) == tokens("True|high|Hello!")


def test_strict_params(make_client: Any) -> None:
    strict = make_client(api={"strict_params": True})
    assert ask(strict, metadata={"user_id": "u"}, service_tier="auto", **GREEDY)["content"]
    assert "max_token" in ask(strict, 400, max_token=1)["error"]["message"]


def block(**keys: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", **keys}]}]}


RESULT = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "x", "foo": 1}]}


@pytest.mark.parametrize(
    ("where", "body"),
    [
        ("messages[0].content[0].foo", block(foo=1)),
        ("messages[0].content[0].content[0].foo", {"messages": [{"role": "user", "content": [RESULT]}]}),
        ("messages[0].name", {"messages": [{"role": "user", "content": "x", "name": "me"}]}),
        ("system[0].foo", {"system": [{"type": "text", "text": "x", "foo": 1}]}),
        (
            "tools[0].parameters",
            {"tools": [{"name": "f", "input_schema": {"type": "object"}, "parameters": {}}]},
        ),
        ("tool_choice.mode", {"tool_choice": {"type": "auto", "mode": "any"}}),
    ],
)
def test_unknown_keys_inside_are_named_too(
    make_client: Any, client: TestClient, caplog: pytest.LogCaptureFixture, where: str, body: dict[str, Any]
) -> None:
    strict = make_client(api={"strict_params": True})
    assert where in ask(strict, 400, **body)["error"]["message"]
    ask(client, **body)
    assert f"unknown fields are ignored: {where}" in caplog.text
    known = block(cache_control={"type": "ephemeral"}, citations=None)
    assert ask(strict, **known, **GREEDY)["content"]


def test_an_unexpected_failure_has_anthropics_shape(
    make_client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client()

    async def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a secret of the inside")

    monkeypatch.setattr(api.serving.messages, "start_turn", fail)
    body = {"model": "nobody", "messages": USER, "max_tokens": 1}
    answer = client.post(PATH, json=body)
    assert answer.status_code == 500
    assert answer.json() == {
        "type": "error",
        "error": {"type": "api_error", "message": "Internal server error."},
    }
    assert "ZeroDivisionError" in caplog.text


def test_the_official_client(official: anthropic.Anthropic) -> None:
    whole = official.messages.create(model="tiny", messages=USER, max_tokens=12, **EXTRA)
    assert whole.content[0].type == "text" and whole.usage.output_tokens == 12
    with official.messages.stream(model="tiny", messages=USER, max_tokens=12, **EXTRA) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(pieces) == whole.content[0].text
    assert final.content[0].text == whole.content[0].text and final.usage.output_tokens == 12
    assert final.stop_reason == whole.stop_reason == "max_tokens"
    assert (
        official.messages.count_tokens(model="tiny", messages=USER).input_tokens == whole.usage.input_tokens
    )
    with pytest.raises(anthropic.BadRequestError):
        official.messages.create(model="tiny", messages=USER, max_tokens=1, extra_body={"temperature": 5})
    with pytest.raises(anthropic.NotFoundError):
        official.messages.create(model="nobody", messages=USER, max_tokens=1)


async def test_the_official_async_client_and_a_reader_that_leaves(server: Server) -> None:
    async with anthropic.AsyncAnthropic(base_url=server.url, api_key="EMPTY", max_retries=0) as client:
        async with client.messages.stream(model="tiny", messages=USER, max_tokens=240, **EXTRA) as stream:
            async for _ in stream.text_stream:
                break
        server.wait_until_idle()
