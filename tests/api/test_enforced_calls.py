"""Calls that a request requires: constrained decoding makes them, whatever the model would say."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

import httpx
import jsonschema
import openai
import pytest
from client_bodies import TOOL_CASES
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field
from server_process import Server
from sse_reader import read_events

SCRIPTS = {
    "plain": "I would rather talk about other matters.",
    "thinks": '<think>I need {a} tool.</think>[{"name":"paint","parameters":{"color":"red"}}]',
    "early": '{"color":"green","times":3}',
    "object": '{ "color": "green", "times": 42 }',
    "calls": '[{"name":"move","parameters":{"by":[true]}}]',
    "form": '{ "ok": true }',
    "pair": '[{"name":"paint","parameters":{"color":"red"}},{"name":"paint","parameters":{"color":"green"}}]',
    "</think>": "No tools, please. Words only!",
    "<think>": 'Red it is.</think>[{"name":"paint","parameters":{"color":"red","times":2}}] and more',
}
PAINT = {
    "type": "object",
    "properties": {
        "color": {"$ref": "#/$defs/color"},
        "times": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 99}, {"type": "null"}]},
    },
    "required": ["color"],
    "$defs": {"color": {"enum": ["red", "green", "dark blue"]}},
}
MOVE = {
    "type": "object",
    "properties": {"by": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}},
    "required": ["by"],
}
SCHEMAS = {"paint": PAINT, "move": MOVE, "stop": {"type": "object", "maxProperties": 0}}
TOOLS = [
    {"type": "function", "function": {"name": "paint", "description": "Paints.", "parameters": PAINT}},
    {"type": "function", "function": {"name": "move", "parameters": MOVE}},
    {"type": "function", "function": {"name": "stop"}},
]
QUIET: dict[str, Any] = {"reasoning_effort": "none"}
"""The template knows reasoning: a model of chance may otherwise begin with it, and never end."""
ASK = [{"role": "user", "content": "Paint it red."}]


def ask(http: httpx.Client, status: int = 200, **more: Any) -> dict[str, Any]:
    body = {**QUIET, "messages": ASK, "tools": TOOLS, "tool_choice": "required", "max_tokens": 200, **more}
    response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == status, response.text
    return response.json() if status == 200 else response.json()["error"]


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def check_calls(message: dict[str, Any]) -> list[str]:
    """All calls of a message satisfy their schemas; returns their names."""
    assert message["content"] == ""
    calls = message.get("tool_calls", [])
    for call in calls:
        arguments = json.loads(call["function"]["arguments"])
        jsonschema.validate(arguments, SCHEMAS[call["function"]["name"]])
    return [call["function"]["name"] for call in calls]


def test_required_calls_satisfy_their_schemas(http: httpx.Client) -> None:
    names: list[str] = []
    answer = ask(http, n=12, seed=3, temperature=1.5)
    for choice in answer["choices"]:
        assert choice["finish_reason"] in ("tool_calls", "length")  # there may be any number of calls
        names += check_calls(choice["message"])
    assert len(names) >= 12


def test_one_call_only(http: httpx.Client) -> None:
    for choice in ask(http, n=6, seed=1, temperature=1.5, parallel_tool_calls=False)["choices"]:
        assert choice["finish_reason"] == "tool_calls"
        assert len(check_calls(choice["message"])) == 1


def test_named_calls(http: httpx.Client) -> None:
    for choice in ask(http, n=6, seed=2, temperature=1.5, tool_choice=named("paint"))["choices"]:
        assert choice["finish_reason"] == "stop"
        assert check_calls(choice["message"]) == ["paint"]
    script = {"chat_template_kwargs": {"script": "early"}, "reasoning_effort": None, "temperature": 0}
    [choice] = ask(http, tool_choice=named("paint"), **script)["choices"]
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == SCRIPTS["early"]
    old = {"tools": None, "tool_choice": None, "functions": [TOOLS[0]["function"]]}
    [choice] = ask(http, function_call={"name": "paint"}, **old, **script)["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["function_call"] == {"name": "paint", "arguments": SCRIPTS["early"]}


CUT: list[tuple[Any, str, int, int]] = [
    ("required", "pair", 1, 0),
    ("required", "pair", 32, 0),
    ("required", "pair", 78, 1),
    (named("paint"), "early", 1, 0),
    (named("paint"), "early", 12, 0),
]
"""A choice, a script, at how many characters it is cut, and how many calls are complete by then."""


def cut_script(http: httpx.Client, script: str, characters: int) -> dict[str, Any]:
    """The fields that make the model say a beginning of a script."""
    beginning = {"prompt": SCRIPTS[script][:characters], "add_special_tokens": False}
    tokens = http.post("/tokenize", json=beginning).json()["count"]
    kwargs = {"script": script}
    return {
        "temperature": 0,
        "reasoning_effort": None,
        "chat_template_kwargs": kwargs,
        "max_tokens": tokens,
    }


@pytest.mark.parametrize(("choice", "script", "characters", "complete"), CUT)
def test_an_enforced_call_that_was_cut_off_is_none(
    http: httpx.Client, choice: Any, script: str, characters: int, complete: int
) -> None:
    """A stream has sent its beginning and cannot take it back: the one way in which whole answers differ."""
    body = {"tool_choice": choice, **cut_script(http, script, characters)}
    [whole] = ask(http, **body)["choices"]
    assert whole["finish_reason"] == "length" and len(check_calls(whole["message"])) == complete
    assert ("tool_calls" in whole["message"]) is (complete > 0)
    [calls], finals = streamed(http, n=1, **body)
    kept = [call["function"] for call in whole["message"].get("tool_calls", [])]
    assert calls[:complete] == kept and finals == ["length"]
    for broken in calls[complete:]:
        assert broken["name"] == "paint" and broken["arguments"] and broken["arguments"] in SCRIPTS[script]
    assert len(calls) - complete == (characters > 1 or choice != "required")


def test_a_stop_string_inside_of_an_enforced_call_leaves_none(http: httpx.Client) -> None:
    body = {"tool_choice": "required", **cut_script(http, "pair", 200), "stop": "green"}
    [choice] = ask(http, **body)["choices"]
    assert check_calls(choice["message"]) == ["paint"] and choice["finish_reason"] == "tool_calls"
    [choice] = ask(http, **body | {"stop": "red"})["choices"]
    assert check_calls(choice["message"]) == [] and choice["finish_reason"] == "stop"


def streamed(http: httpx.Client, n: int, **body: Any) -> tuple[list[list[dict[str, str]]], list[str]]:
    """The calls of each of ``n`` streamed answers, and the reasons they finished with."""
    sent = {**QUIET, "messages": ASK, "tools": TOOLS, "max_tokens": 200, "stream": True, "n": n, **body}
    calls: list[list[dict[str, str]]] = [[] for _ in range(n)]
    reasons: list[str] = []
    for chunk in read_events(http.post("/v1/chat/completions", json=sent).text):
        [part] = chunk["choices"]
        assert part["delta"] or part["finish_reason"], "an empty event"
        reasons += [part["finish_reason"]] if part["finish_reason"] else []
        pieces = part["delta"].get("tool_calls")
        if pieces is None:
            continue
        [piece], own = pieces, calls[part["index"]]
        if piece.get("id"):
            assert piece["index"] == len(own) and piece["type"] == "function"
            assert piece["function"].keys() == {"name", "arguments"} and piece["function"]["arguments"] == ""
            own.append(dict(piece["function"]))
        else:
            assert piece["index"] == len(own) - 1 and piece.keys() == {"index", "function"}
            assert piece["function"].keys() == {"arguments"} and piece["function"]["arguments"]
            own[-1]["arguments"] += piece["function"]["arguments"]
    return calls, reasons


@pytest.mark.parametrize("choice", ["required", named("paint")])
def test_stream_says_the_same(http: httpx.Client, choice: Any) -> None:
    body = {"tool_choice": choice, "seed": 5, "temperature": 1.0, "n": 2}
    whole = ask(http, **body)["choices"]
    calls, reasons = streamed(http, **body)
    assert sorted(reasons) == sorted(answer["finish_reason"] for answer in whole)
    for found, answer in zip(calls, whole, strict=True):
        complete = [call["function"] for call in answer["message"].get("tool_calls", [])]
        assert found[: len(complete)] == complete
        # A whole answer leaves out what was cut off.
        assert len(found) - len(complete) <= (answer["finish_reason"] == "length")


def test_reasoning_comes_before_the_call(http: httpx.Client) -> None:
    thinks = {"temperature": 0, "reasoning_effort": None, "chat_template_kwargs": {"script": "thinks"}}
    [choice] = ask(http, **thinks)["choices"]
    assert choice["message"]["reasoning"] == "I need {a} tool."
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"color":"red"}'
    [choice] = ask(http, temperature=0, reasoning_effort="low")["choices"]
    assert choice["message"]["reasoning"] == "Red it is." and choice["message"]["content"] == ""
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"color":"red","times":2}'
    [choice] = ask(http, seed=4, parallel_tool_calls=False)["choices"]
    assert choice["message"]["reasoning"] is None
    assert check_calls(choice["message"])


def test_a_form_or_calls(http: httpx.Client) -> None:
    """With response_format and auto, the answer has the form or is a list of calls."""
    form = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    form["additionalProperties"] = False
    response_format = {"type": "json_schema", "json_schema": {"name": "form", "schema": form}}
    body = {"temperature": 0, "tool_choice": "auto", "response_format": response_format}

    def said(script: str) -> dict[str, Any]:
        kwargs = {"chat_template_kwargs": {"script": script}, "reasoning_effort": None}
        return ask(http, **body, **kwargs)["choices"][0]

    calls = said("calls")
    [call] = calls["message"]["tool_calls"]
    assert calls["finish_reason"] == "tool_calls" and calls["message"]["content"] is None
    assert call["function"] == {"name": "move", "arguments": '{"by":[true]}'}
    answer = said("form")
    assert answer["finish_reason"] == "stop" and "tool_calls" not in answer["message"]
    assert json.loads(answer["message"]["content"]) == {"ok": True}
    error = ask(http, 400, tool_choice="auto", structured_outputs={"regex": "a+"})
    assert error["param"] == "structured_outputs"


@pytest.mark.parametrize("choice", ["required", named("paint")])
def test_calls_that_are_enforced_leave_no_room_for_another_form(http: httpx.Client, choice: Any) -> None:
    for fields in (
        {"structured_outputs": {"regex": "a+"}},
        {"structured_outputs": {"json": {"type": "object"}}},
        {"guided_choice": ["a", "b"]},
        {"guided_json_object": True},
        {"response_format": {"type": "structural_tag", "structures": [], "triggers": ["<"]}},
    ):
        error = ask(http, 400, tool_choice=choice, **fields)
        assert error["param"] == next(iter(fields)) and "not both" in error["message"]
    for format in ("text", "json_object"):
        body = {"response_format": {"type": format}, "parallel_tool_calls": False, "seed": 3}
        [answer] = ask(http, tool_choice=choice, **body)["choices"]
        assert len(check_calls(answer["message"])) == 1


def test_the_type_of_tools_and_of_a_choice_may_be_left_out(http: httpx.Client) -> None:
    tools = [{"function": TOOLS[0]["function"]}]
    asked = {"tools": tools, "tool_choice": {"function": {"name": "paint"}}}
    [choice] = ask(http, temperature=0, **asked)["choices"]
    assert check_calls(choice["message"]) == ["paint"] and choice["finish_reason"] == "stop"
    flat = [{"name": "move", "parameters": MOVE}]
    items = {"input": "Go.", "tools": flat, "tool_choice": {"name": "move"}, "max_output_tokens": 100}
    body = {**items, "temperature": 0, "chat_template_kwargs": {"enable_thinking": False}}
    answer = http.post("/v1/responses", json=body).json()
    assert [item["name"] for item in answer["output"]] == ["move"]


def test_schemas_that_cannot_be_enforced_are_refused(http: httpx.Client) -> None:
    for parameters in (
        {"type": "object", "properties": {"a": {"$ref": "https://example.org/schema"}}},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/missing"}}},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}},
    ):
        bad = [{"type": "function", "function": {"name": "f", "strict": True, "parameters": parameters}}]
        assert ask(http, 400, tools=bad)["param"] == "tools"
        assert ask(http, 400, tools=bad, tool_choice=named("f"))["param"] == "tools"


@pytest.mark.parametrize("body", [case[1] for case in TOOL_CASES], ids=[case[0] for case in TOOL_CASES])
def test_bodies_of_clients(http: httpx.Client, body: dict[str, Any]) -> None:
    response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text


class Color(StrEnum):
    RED = "red"
    GREEN = "green"


class Paint(BaseModel):
    """How to paint."""

    color: Color = Field(description="of the paint")
    times: int = Field(ge=0, le=99)


@tool
def move(by: bool) -> str:
    """Moves."""
    return f"moved by {by}"


def langchain(scripted: Server, **settings: Any) -> ChatOpenAI:
    return ChatOpenAI(model="tiny", base_url=f"{scripted.url}/v1", api_key="EMPTY", max_retries=0, **settings)


def test_langchain_required_and_named(scripted: Server) -> None:
    model = langchain(scripted, temperature=1, seed=7, reasoning_effort="none")
    for choice in ("any", "required", "move"):
        answer = model.bind_tools([move, Paint], tool_choice=choice).invoke("Go.")
        assert isinstance(answer, AIMessage) and answer.tool_calls and not answer.invalid_tool_calls
        if choice == "move":
            assert answer.tool_calls[0]["args"].keys() == {"by"}
            assert move.invoke(answer.tool_calls[0]).content.startswith("moved by")


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
def test_langchain_structured_output(scripted: Server, method: Any) -> None:
    script = {"chat_template_kwargs": {"script": "object"}}
    model = langchain(scripted, temperature=0, max_tokens=60, extra_body=script)
    structured = model.with_structured_output(Paint, method=method)
    paint = structured.invoke("Paint, as JSON.")
    assert paint == Paint(color=Color.GREEN, times=42) or method == "function_calling"
    assert isinstance(paint, Paint)
    *_, last = structured.stream("Paint, as JSON.")
    assert last == paint


def test_openai_client(scripted: Server) -> None:
    client = openai.OpenAI(base_url=f"{scripted.url}/v1", api_key="EMPTY", max_retries=0)
    tools = [openai.pydantic_function_tool(Paint)]
    parsed = client.chat.completions.parse(
        model="tiny",
        messages=ASK,
        tools=tools,
        tool_choice="required",
        parallel_tool_calls=False,
        seed=1,
        reasoning_effort="none",
    )
    [call] = parsed.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Paint)
    choice = {"type": "function", "function": {"name": "Paint"}}
    with client.chat.completions.stream(
        model="tiny", messages=ASK, tools=tools, tool_choice=choice, seed=2, reasoning_effort="none"
    ) as events:
        kinds = [event.type for event in events]
        final = events.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.done" in kinds
    [call] = final.message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Paint)
