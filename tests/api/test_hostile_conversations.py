"""Bodies that are wrong where no model of a body looks: a refusal that names the field, never a 500."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

FUNCTION = {"type": "function", "name": "look", "parameters": {"type": "object"}}
OWN_TOOL = {"name": "look", "input_schema": {"type": "object"}}
CHAT_TOOL = {"type": "function", "function": {"name": "look"}}
HALF_TAG = '{"structures": [{"begin": "\\ud800", "schema": {}, "end": ""}], "triggers": ["\\ud800"]}'

RESPONSES: list[dict[str, Any]] = [
    {"input": []},
    {"input": [{}]},
    {"input": [{"type": None}]},
    {"input": [{"type": []}]},
    {"input": [{"type": {"a": 1}, "role": "user"}]},
    {"input": [{"role": None, "content": "hi"}]},
    {"input": [{"role": "", "content": "hi"}]},
    {"input": [{"role": "u" * 65, "content": "hi"}]},
    {"input": [{"role": 5, "content": "hi"}]},
    {"input": [{"role": "user", "content": None}]},
    {"input": [{"role": "user", "content": [None]}]},
    {"input": [{"role": "user", "content": [{"type": []}]}]},
    {"input": [{"role": "user", "content": [{"type": "input_text", "text": 5}]}]},
    {"input": [{"role": "assistant", "content": 7}]},
    {"input": [{"type": "reasoning", "content": 5}, {"role": "user", "content": "hi"}]},
    {"input": [{"type": "reasoning", "summary": "text"}, {"role": "user", "content": "hi"}]},
    {"input": [{"type": "function_call", "name": [], "call_id": "a", "arguments": "{}"}]},
    {"input": [{"type": "function_call", "name": "look", "call_id": "a", "arguments": "["}]},
    {"input": [{"type": "function_call", "name": "look", "call_id": "a", "arguments": "[" * 9999}]},
    {"input": [{"type": "function_call", "name": "look", "call_id": "a", "arguments": "9" * 5000}]},
    {"input": [{"type": "function_call_output", "call_id": {}, "output": "1"}]},
    {"input": [{"type": "function_call_output", "call_id": "a", "output": {"a": 1}}]},
    {"input": [{"type": "function_call", "name": "look", "call_id": "a", "arguments": "{}"}] * 1025},
    {"text": {"format": {}}},
    {"text": {"format": {"type": []}}},
    {"text": {"format": {"type": "xml"}}},
    {"text": {"format": {"type": "json_schema"}}},
    {"text": {"format": {"type": "json_schema", "name": 5, "schema": {}}}},
    {"text": {"format": {"type": "json_schema", "name": "a", "schema": "text"}}},
    {"text": {"format": {"type": "structural_tag"}}},
    {"tools": [{}]},
    {"tools": [{"type": []}]},
    {"tools": [{**FUNCTION, "name": []}]},
    {"tools": [{**FUNCTION, "parameters": 5}]},
    {"tools": [{**FUNCTION, "parameters": {"type": []}}]},
    {"tools": [{**FUNCTION, "parameters": {"$ref": 5, "properties": 7}}], "tool_choice": "required"},
    {"tools": [FUNCTION], "tool_choice": {}},
    {"tools": [FUNCTION], "tool_choice": {"type": []}},
    {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": []}},
    {"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools", "tools": [{"name": []}]}},
    {"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools", "tools": [5]}},
    {"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools", "mode": {}, "tools": [FUNCTION]}},
    {
        "tools": [{**FUNCTION, "name": []}, FUNCTION],
        "tool_choice": {"type": "allowed_tools", "tools": [FUNCTION]},
    },
    {"tool_choice": "required"},
    {"include": ["\x00"]},
    {"max_output_tokens": 10**30},
    {"max_output_tokens": -1, "truncation": "auto"},
    {"top_logprobs": 10**30},
    {"top_logprobs": -5},
    {"seed": 10**30},
    {"priority": 10**30},
    {"previous_response_id": "\x00"},
    {"reasoning": {"effort": []}},
    {"metadata": {"a": 5}},
    {"chat_template_kwargs": {"messages": 5, "tools": 5, "add_generation_prompt": []}},
]
MESSAGES: list[dict[str, Any]] = [
    {"messages": []},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": "user", "content": []}]},
    {"messages": [{"role": "assistant", "content": []}]},
    {"messages": [{"role": "user", "content": [{}]}]},
    {"messages": [{"role": "user", "content": [{"type": []}]}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]},
    {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": []}]}]},
    {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": 5}]}]},
    {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": {}}]}],
            }
        ]
    },
    {
        "messages": [
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": 5}]}
        ]
    },
    {
        "messages": [
            {"role": "assistant", "content": [{"type": "tool_use", "id": {}, "name": [], "input": {}}]}
        ]
    },
    {
        "messages": [
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "a", "name": "b", "input": {}}] * 1025,
            }
        ]
    },
    {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}] * 4096}] * 5},
    {"messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": 5}]}]},
    {"messages": [{"role": "assistant", "content": [{"type": "redacted_thinking"}]}]},
    {"system": []},
    {"system": [{}]},
    {"system": [{"type": "text", "text": []}]},
    {"tools": [{}]},
    {"tools": [{"type": []}]},
    {"tools": [{**OWN_TOOL, "input_schema": 5}]},
    {"tools": [{**OWN_TOOL, "description": 5}]},
    {"tools": [OWN_TOOL], "tool_choice": {}},
    {"tools": [OWN_TOOL], "tool_choice": {"type": []}},
    {"tools": [OWN_TOOL], "tool_choice": {"type": "tool", "name": {}}},
    {"tools": [OWN_TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": "perhaps"}},
    {"tool_choice": {"type": "any"}},
    {"output_config": {"format": {}}},
    {"output_config": {"format": {"type": []}}},
    {"output_config": {"format": {"type": "json_schema"}}},
    {"output_config": {"format": {"type": "json_schema", "schema": "text"}}},
    {"output_config": {"effort": "x" * 10000}},
    {"stop_sequences": [""]},
    {"stop_sequences": []},
    {"max_tokens": 0},
    {"max_tokens": 10**30},
    {"top_k": 10**30},
]
CHATS: list[dict[str, Any]] = [
    {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
    {
        "messages": [
            {"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "9" * 5000}}]}
        ]
    },
    {
        "messages": [
            {
                "role": "assistant",
                "tool_calls": [{"function": {"name": "a", "arguments": '{"a": "\\ud800"}'}}],
            }
        ]
    },
    {"messages": [{"role": "assistant", "tool_calls": [{"id": [], "function": {"name": "a"}}]}]},
    {"messages": [{"role": "tool", "content": "hi", "tool_call_id": ""}]},
    {"messages": [{"role": "user", "content": [5]}], "echo": True},
    {"messages": [{"role": "assistant", "content": [{"type": []}]}], "continue_final_message": True},
    {"tools": []},
    {"tools": [{"type": "function", "function": []}]},
    {"tools": [CHAT_TOOL, CHAT_TOOL]},
    {"tools": [CHAT_TOOL], "tool_choice": {"type": []}},
    {"tools": [CHAT_TOOL], "tool_choice": {"type": "function", "function": {"name": []}}},
    {"tools": [CHAT_TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": []}}},
    {
        "tools": [CHAT_TOOL],
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [5]}},
    },
    {"functions": [{}]},
    {"functions": [{"name": "look"}], "function_call": {"name": {}}},
    {"function_call": {}},
    {
        "tools": [CHAT_TOOL],
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": {}}}},
    },
    {"tools": [CHAT_TOOL], "guided_json": "[" * 10000},
    {"tools": [CHAT_TOOL], "guided_json": "[]"},
    {"guided_json": '{"const": "\\ud800"}'},
    {"guided_json": '{"minimum": ' + "9" * 5000 + "}"},
    {"guided_json": '{"multipleOf": 1e400}'},
    {"guided_json": '{"minimum": 1e400}'},
    {"guided_json": {"enum": 5, "properties": [], "anyOf": {}, "items": 5, "$defs": 5}},
    {"guided_json": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}},
    {"guided_choice": []},
    {"guided_choice": [""]},
    {"guided_regex": "("},
    {"guided_grammar": "start: start"},
    {"guided_grammar": "root ::= root"},
    {"structured_outputs": {}},
    {"structured_outputs": {"structural_tag": "5"}},
    {
        "structured_outputs": {
            "structural_tag": {"structures": [{"begin": "", "schema": {}, "end": ""}], "triggers": ["a"]}
        }
    },
    {"structured_outputs": {"structural_tag": HALF_TAG}},
    {"structured_outputs": {"json": {}, "whitespace_pattern": "("}},
    {"response_format": {"type": "structural_tag", "structures": [5], "triggers": []}},
]
BODIES = [
    *(("/v1/responses", {"input": "hi", "max_output_tokens": 2, **body}) for body in RESPONSES),
    *(("/v1/responses/input_tokens", {"input": "hi", **body}) for body in RESPONSES),
    *(
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, **body})
        for body in MESSAGES
    ),
    *(
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, **body})
        for body in CHATS
    ),
]


@pytest.mark.parametrize("path", sorted({path for path, _ in BODIES}))
def test_every_body_is_answered_or_refused(client: TestClient, path: str) -> None:
    model = client.get("/v1/models").json()["data"][0]["id"]
    wrong = []
    for body in (body for mine, body in BODIES if mine == path):
        answer = client.post(path, json={**body, "model": model})
        if answer.status_code not in (200, 400, 404) or (
            answer.status_code != 200 and "error" not in answer.json()
        ):
            wrong.append((json.dumps(body)[:300], answer.text[:300]))
    assert not wrong


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/responses", {"input": [{"role": "", "content": "hi"}]}, "input"),
        ("/v1/responses", {"text": {"format": {"type": "xml"}}}, "text.format"),
        ("/v1/responses", {"input": [{"type": "reasoning", "content": 5}]}, "input"),
        (
            "/v1/responses",
            {"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools", "tools": [{"name": []}]}},
            "tool_choice",
        ),
        ("/v1/chat/completions", CHATS[3], "messages"),
    ],
)
def test_the_refusal_names_the_field_that_was_sent(
    client: TestClient, path: str, body: dict[str, Any], param: str
) -> None:
    valid = {"input": "hi"} if path == "/v1/responses" else {}
    answer = client.post(path, json={**valid, **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_no_client_chooses_the_id_of_a_stored_response(client: TestClient) -> None:
    asked: dict[str, Any] = {"input": "hi", "max_output_tokens": 1, "request_id": "mine"}
    first = client.post("/v1/responses", json=asked).json()
    second = client.post("/v1/responses", json={**asked, "previous_response_id": first["id"]}).json()
    third = client.post("/v1/responses", json={**asked, "previous_response_id": second["id"]}).json()
    assert len({first["id"], second["id"], third["id"], "resp_mine"}) == 4


def test_the_ids_of_items_are_texts(client: TestClient) -> None:
    items = [{"id": odd, "role": "user", "content": "hi"} for odd in (None, 5, {}, "", "own")]
    made = client.post("/v1/responses", json={"input": items, "max_output_tokens": 1}).json()
    page = client.get(f"/v1/responses/{made['id']}/input_items").json()
    assert len({item["id"] for item in page["data"]}) == 5 and page["first_id"] == "own"
