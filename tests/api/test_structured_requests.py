"""Structured output over HTTP: every spelling, the conflicts, the limits, and the official client."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import httpx
import openai
import pydantic
import pytest
from fastapi.testclient import TestClient
from server_process import Server
from sse_reader import read_events, texts

import api.serving.context
from api.serving.bounded_threads import BoundedThreads

MESSAGES = [{"role": "user", "content": "Where is the station?"}]
COLOURS = {"type": "string", "enum": ["red", "green"]}
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"$ref": "#/$defs/colour"}, "size": {"anyOf": [{"type": "null"}, {"const": 3}]}},
    "required": ["colour", "size"],
    "additionalProperties": False,
    "$defs": {"colour": COLOURS},
}


def chat(client: TestClient, **body: Any) -> Any:
    return client.post("/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 100, **body})


def text_of(client: TestClient, **body: Any) -> str:
    response = chat(client, **body)
    assert response.status_code == 200, response.text
    [choice] = response.json()["choices"]
    assert choice["finish_reason"] == "stop", choice
    return choice["message"]["content"]


JSON_FIELDS: list[dict[str, Any]] = [
    {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA, "strict": True}}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
    {"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}},
    {"structured_outputs": {"json": json.dumps(SCHEMA), "whitespace_pattern": " ?"}},
    {"guided_json": SCHEMA, "guided_whitespace_pattern": ""},
    {"guided_json": json.dumps(SCHEMA), "guided_whitespace_pattern": " ?"},
]  # fmt: skip


@pytest.mark.parametrize("fields", JSON_FIELDS)
def test_every_spelling_of_a_schema(client: TestClient, fields: dict[str, Any]) -> None:
    # A random model would write white space for ever.
    answer = json.loads(text_of(client, **fields, logit_bias=_against_whitespace(client)))
    assert answer["colour"] in COLOURS["enum"] and answer["size"] in (None, 3) and len(answer) == 2


def test_an_answer_has_no_properties_that_its_model_does_not_name(server: Server) -> None:
    """Also where the schema leaves it open, as pydantic's do and the clients' that do not ask for strict."""

    class Answer(pydantic.BaseModel):
        colour: Literal["red", "green"]
        size: Literal[3] | None

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    schema = Answer.model_json_schema()
    assert "additionalProperties" not in schema
    for seed in range(6):
        completion = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "Which?"}],
            response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
            seed=seed,
            extra_body={"bad_words": [" ", "\n", "\t", "\r"]},
            max_tokens=100,
        )
        text = completion.choices[0].message.content
        assert text is not None and json.loads(text).keys() == {"colour", "size"}


REGEX = {"regex": "a"}
REGEXES = [
    ({"structured_outputs": {"regex": "[ab]{4}"}}, "[ab]{4}"),
    ({"guided_regex": "[ab]{4}"}, "[ab]{4}"),
    ({"response_format": {"type": "structural_tag", "format": {"type": "regex", "pattern": "a?b"}}}, "a?b"),
    ({"structured_outputs": {"structural_tag": {"format": {"type": "const_string", "value": "x"}}}}, "x"),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
    ({"guided_choice": ["yes", "no"]}, "yes|no"),
    ({"structured_outputs": {"grammar": 'root ::= "x" [0-9]'}}, "x[0-9]"),
    ({"guided_grammar": 'start: "x" /[0-9]/'}, "x[0-9]"),
    ({"response_format": {"type": "text"}, "guided_choice": ["yes"], "guided_json_object": False}, "yes"),
]


@pytest.mark.parametrize(("fields", "regex"), REGEXES)
def test_every_other_kind(client: TestClient, fields: dict[str, Any], regex: str) -> None:
    assert re.fullmatch(regex, text_of(client, **fields))
    response = client.post("/v1/completions", json={"prompt": ["One", "Two"], "n": 2, **fields})
    assert response.status_code == 200
    answers = [choice["text"] for choice in response.json()["choices"]]
    assert len(answers) == 4 and all(re.fullmatch(regex, answer) for answer in answers)


def test_errors_say_what_is_wrong(client: TestClient) -> None:
    for format in ({"type": "json_schema"}, {"type": "json_schema", "json_schema": {"name": "a"}}):
        error = chat(client, response_format=format).json()["error"]
        assert error["param"] == "response_format" and error["code"] == 400
        assert "json_schema" in error["message"] and "must be provided" in error["message"]
    for fields in (
        {"guided_json": {"$ref": "#"}},
        {"guided_json": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}},
        {"guided_grammar": "start: start"},
    ):
        error = chat(client, **fields).json()["error"]
        assert error["code"] == 400 and error["param"] in fields
        assert "only refers back to itself" in error["message"] and "Bias" not in error["message"]


def test_json_mode_gives_an_object(client: TestClient) -> None:
    ids = client.post("/tokenize", json={"prompt": "}", "add_special_tokens": False}).json()["tokens"]
    assert len(ids) == 1
    text = text_of(client, response_format={"type": "json_object"}, logit_bias={str(ids[0]): 100})
    assert json.loads(text) == {}


def test_streams_and_whole_answers_agree(client: TestClient) -> None:
    fields = {"guided_regex": "[a-z]{10}( [A-Z]{3}){2}", "seed": 5, "logprobs": True, "n": 2}
    whole = chat(client, **fields).json()["choices"]
    events = read_events(chat(client, stream=True, **fields).text)
    assert texts(events) == {i: choice["message"]["content"] for i, choice in enumerate(whole)}
    assert all(re.fullmatch("[a-z]{10}( [A-Z]{3}){2}", choice["message"]["content"]) for choice in whole)


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("response_format", {"response_format": {"type": "json_schema"}}),
        ("response_format", {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}),
        ("response_format", {"response_format": {"type": "structural_tag", "structures": []}}),
        ("response_format", {"response_format": {"type": "json_schema", "json_schema": {"schema": False}}}),
        ("structured_outputs", {"structured_outputs": {}}),
        ("structured_outputs", {"structured_outputs": {"regex": "a", "json_object": True}}),
        ("structured_outputs", {"structured_outputs": {"choice": []}}),
        ("structured_outputs", {"structured_outputs": {"grammar": ""}}),
        ("structured_outputs", {"structured_outputs": {"regex": "(a"}}),
        ("structured_outputs", {"structured_outputs": {"json": "{"}}),
        ("structured_outputs", {"structured_outputs": {"structural_tag": "{}"}}),
        ("response_format", {"response_format": {"type": "structural_tag", "format": {"type": "token"}}}),
        ("guided_json", {"guided_json": {"type": "nonsense"}}),
        ("guided_json", {"guided_json": {"type": "array", "uniqueItems": True}}),
        ("guided_grammar", {"guided_grammar": "no grammar"}),
        ("guided_regex", {"response_format": {"type": "json_object"}, "guided_regex": "a"}),
        ("structured_outputs", {"response_format": {"type": "json_object"}, "structured_outputs": REGEX}),
        ("guided_choice", {"guided_regex": "a", "guided_choice": ["a"]}),
        ("allowed_token_ids", {"guided_regex": "a", "allowed_token_ids": [5]}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(client: TestClient, param: str, fields: dict[str, Any]) -> None:
    response = chat(client, **fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param and error["type"] == "BadRequestError" and len(error["message"]) < 800


def test_strict_false_leaves_out_what_cannot_be_enforced(client: TestClient) -> None:
    schema = {"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 2, "uniqueItems": True}
    named = {"name": "n", "schema": schema, "strict": False}
    text = text_of(client, response_format={"type": "json_schema", "json_schema": named})
    assert json.loads(text) == [1, 1]


def test_compiling_has_a_time_limit(make_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is shortened to nothing: whatever is compiled then takes too long."""
    monkeypatch.setattr(api.serving.context, "GRAMMAR_TIMEOUT_S", 1e-6)
    response = chat(make_client(), guided_regex="[a-z]{3}x{7}")
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "guided_regex" and "compiled" in error["message"]


def test_when_all_threads_compile_others_are_told_to_come_later(make_client: Any) -> None:
    client = make_client()
    assert re.fullmatch("a[0-9]{2}", text_of(client, guided_regex="a[0-9]{2}"))
    client.app.state.context.grammar_threads = BoundedThreads(0, 0.01, name="grammar")
    response = chat(client, guided_regex="b[0-9]{2}")
    assert response.status_code == 503 and int(response.headers["retry-after"]) > 0
    assert response.json()["error"]["type"] == "Service Unavailable"
    assert re.fullmatch("a[0-9]{2}", text_of(client, guided_regex="a[0-9]{2}")), "a known grammar needs none"
    assert chat(client, max_tokens=2).status_code == 200


def test_a_bomb_ends_neither_the_server_nor_others_answers(server: Server) -> None:
    """Links that overflow the compiler's stack, sent while other requests are answered."""
    links = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(5000)}
    bomb = {"$defs": {**links, "d5000": {}}, "$ref": "#/$defs/d0"}
    with server.client() as client, ThreadPoolExecutor(6) as pool:

        def send(i: int) -> httpx.Response:
            body = {"messages": MESSAGES, "max_tokens": 100}
            extra = {"guided_json": bomb} if i % 2 else {"guided_regex": f"{i}[a-z]{{3}}"}
            return client.post("/v1/chat/completions", json={**body, **extra})

        answers = list(pool.map(send, range(6)))
    for i, answer in enumerate(answers):
        if i % 2:
            assert answer.status_code == 400 and answer.json()["error"]["param"] == "guided_json"
        else:
            assert re.fullmatch(f"{i}[a-z]{{3}}", answer.json()["choices"][0]["message"]["content"])


class Light(pydantic.BaseModel):
    colour: Literal["red", "green"]
    ways: list[Literal[1, 2]] = pydantic.Field(max_length=2)
    next: Light | None


def test_the_official_client_parses_models(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY", max_retries=0)
    for seed in range(3):
        answer = client.chat.completions.parse(
            model="tiny",
            messages=MESSAGES,  # type: ignore[arg-type]
            response_format=Light,
            seed=seed,
            max_completion_tokens=200,
            logit_bias=_against_whitespace(httpx.Client(base_url=server.url)),
        )
        if answer.choices[0].finish_reason == "stop":
            parsed = answer.choices[0].message.parsed
            assert isinstance(parsed, Light) and parsed.colour in ("red", "green")
            return
    pytest.fail("no answer ended")


def _against_whitespace(client: httpx.Client) -> dict[str, int]:
    bias: dict[str, int] = {}
    for text in (" ", "\n", "\t", "\r", "  ", "    ", "\n   ", "\n\n"):
        answer = client.post("/tokenize", json={"prompt": text, "add_special_tokens": False})
        bias |= {str(token): -100 for token in answer.json()["tokens"]}
    return bias
