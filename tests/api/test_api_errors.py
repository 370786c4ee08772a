"""Every error has OpenAI's body; bad bodies are 400 and cheap."""

from __future__ import annotations

import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.errors import MAX_ERRORS, ApiError, printable, to_api_error
from api.limits import MAX_NESTING, parse_json
from vllm_jax.errors import EngineDeadError, InvalidRequestError

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
JSON = {"Content-Type": "application/json"}


def error_of(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


def test_unknown_route_and_wrong_method(client: TestClient) -> None:
    error = error_of(client.get("/v1/nothing"), 404)
    assert error["type"] == "Not Found" and error["code"] == 404
    response = client.get(CHAT)
    assert error_of(response, 405)["type"] == "Method Not Allowed"
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "JSON object"),
        (b"{", "not valid JSON"),
        (b"[]", "JSON object"),
        (b'"text"', "JSON object"),
        (b'{"messages": [], "temperature": NaN}', "not valid JSON"),
        (b'{"messages": [], "temperature": Infinity}', "not valid JSON"),
        (b'{"messages": [], "temperature": -Infinity}', "not valid JSON"),
        (b'{"messages": "\\ud83d"}', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"seed": ' + b"9" * 10_000 + b"}", "not valid JSON"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "deeper than 64"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_malformed_bodies_are_400(client: TestClient, body: bytes, says: str) -> None:
    assert says in error_of(client.post(CHAT, content=body, headers=JSON), 400)["message"]


def test_wrong_content_type_is_400(client: TestClient) -> None:
    response = client.post(CHAT, content=b'{"messages": []}', headers={"Content-Type": "text/plain"})
    assert "application/json" in error_of(response, 400)["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", "hot"),
        ("temperature", "nan"),
        ("temperature", [1]),
        ("n", 1.5),
        ("stop", {"a": 1}),
        ("messages", "hi"),
        ("messages", [{"content": "no role"}]),
        ("stream_options", True),
        ("logit_bias", {"1": "much"}),
        ("truncation_side", "middle"),
    ],
)
def test_wrong_types_name_the_field(client: TestClient, field: str, value: Any) -> None:
    error = error_of(client.post(CHAT, json={"messages": MESSAGES, field: value}), 400)
    assert error["param"] == field and field in error["message"] and error["type"] == "Bad Request"


def test_infinite_numbers_written_as_digits_are_refused(client: TestClient) -> None:
    body = b'{"messages": [{"role": "user", "content": "hi"}], "temperature": 1e999}'
    assert error_of(client.post(CHAT, content=body, headers=JSON), 400)["param"] == "temperature"


def test_errors_and_echoed_input_are_bounded(client: TestClient) -> None:
    bad = [{"role": 5, "content": "x" * 1000}] * 3000 + [{"role": "y" * 100_000}]
    message = error_of(client.post(CHAT, json={"messages": bad}), 400)["message"]
    assert len(message) <= 2000 and "more" in message
    assert message.count("messages.") == MAX_ERRORS
    message = error_of(client.post(CHAT, json={"messages": MESSAGES, "temperature": "z" * 10**6}), 400)[
        "message"
    ]
    assert len(message) < 400


def test_body_size_is_capped_declared_or_chunked(make_client: Any) -> None:
    client = make_client(http={"max_body_bytes": 2000})
    large = b'{"messages": [{"role": "user", "content": "' + b"a" * 3000 + b'"}]}'
    assert "2000 bytes" in error_of(client.post(CHAT, content=large, headers=JSON), 413)["message"]
    chunks = (large[i : i + 100] for i in range(0, len(large), 100))
    assert "2000 bytes" in error_of(client.post(CHAT, content=chunks, headers=JSON), 413)["message"]
    assert client.post("/tokenize", json={"prompt": "a"}).status_code == 200


def test_header_count_is_capped(make_client: Any) -> None:
    client = make_client(http={"h11_max_header_count": 20})
    assert client.get("/version").status_code == 200
    error_of(client.get("/version", headers={f"x-{i}": "1" for i in range(30)}), 431)


def test_header_bytes_are_capped_exactly(make_client: Any) -> None:
    client = make_client(http={"h11_max_incomplete_event_size": 2000, "api_key": ("k",)})
    sent = client.get("/v1/models", headers={"x-fill": ""}).request  # 401: it was let through
    size = len("/v1/models") + sum(len(name) + len(value) for name, value in sent.headers.raw)
    fill = "a" * (2000 - size)
    assert client.get("/v1/models", headers={"x-fill": fill}).status_code == 401
    for url, headers in (
        ("/v1/models", {"x-fill": fill + "a"}),
        ("/v1/models?", {"x-fill": fill[:-10], "y": "abcdefghij"}),
        ("/v1/models?" + "q" * 2000, {}),
    ):
        error = error_of(client.get(url, headers=headers), 431)
        assert "2000 bytes" in error["message"] and error["code"] == 431


def test_nesting_up_to_the_limit_is_parsed() -> None:
    at_limit = b"[" * MAX_NESTING + b"]" * MAX_NESTING
    assert parse_json(at_limit) is not None
    with pytest.raises(ApiError):
        parse_json(b"[" + at_limit + b"]")


def test_wide_bodies_parse_quickly() -> None:
    start = time.monotonic()
    parse_json(b'{"prompt": [' + b"1," * 10**6 + b"1]}")
    assert time.monotonic() - start < 5


def test_unexpected_exceptions_say_nothing_of_their_inside() -> None:
    body = to_api_error(RuntimeError("/home/secret at 0x7f00")).body["error"]
    assert body == {
        "message": "Internal server error.",
        "type": "InternalServerError",
        "param": None,
        "code": 500,
    }


def test_engine_and_request_errors_have_their_status() -> None:
    assert to_api_error(EngineDeadError("x")).status_code == 500
    error = to_api_error(InvalidRequestError("bad", "seed"))
    assert (error.status_code, error.param, error.type) == (400, "seed", "BadRequestError")
    assert ApiError(503, "busy").headers == {"Retry-After": "5"}


def test_echoed_text_has_no_control_characters() -> None:
    assert printable("a\x1b[31m\x00b", 100) == "a\ufffd[31m\ufffdb"
    assert len(printable("x" * 1000, 50)) == 50
