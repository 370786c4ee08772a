"""What requests say of tools: schemas that enforce calls (jsonschema is the oracle), and formats found."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.parsers.registry import (
    REASONING_FORMATS,
    TOOL_FORMATS,
    detect_reasoning_format,
    detect_tool_format,
)
from api.protocol.chat import ChatCompletionRequest
from api.server_config import ApiConfig
from api.serving.reading import AnswerFormats, Reading
from api.serving.tool_schemas import arguments_schema, calls_schema, moved, schema_or_calls
from api.serving.tools import ToolRequest, read_tools
from vllm_jax.sampling_params import SamplingParams, StructuredOutput
from vllm_jax.tokenizer.chat_template import ChatTemplate

TREE = {
    "type": "object",
    "$id": "https://example.org/tree",
    "properties": {
        "label": {"$ref": "#/$defs/label"},
        "children": {"type": "array", "items": {"$ref": "#"}},
        "$ref": {"const": {"$ref": "#/nowhere"}},
        "either": {"anyOf": [{"$ref": "#/definitions/number"}, {"type": "null"}]},
    },
    "required": ["label"],
    "additionalProperties": False,
    "$defs": {"label": {"enum": ["a", "b"]}},
    "definitions": {"number": {"type": "integer", "default": {"$ref": "#/x"}}},
}
VALUES = st.recursive(
    st.sampled_from([{"label": "a"}, "a", 1, None, {"$ref": "#/nowhere"}, {"label": "c"}]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["label", "children", "$ref", "either", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def valid(schema: Any, value: Any) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(value)


def request(**fields: Any) -> ToolRequest:
    return read_tools(ChatCompletionRequest(messages=[{"role": "user", "content": "x"}], **fields))  # type: ignore[list-item]


def function(name: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_a_moved_schema_admits_the_same(value: Any) -> None:
    moved_tree = {"$defs": {"tool-f": moved(TREE, "tool-f")}, "$ref": "#/$defs/tool-f"}
    assert valid(moved_tree, value) == valid(TREE, value)


@settings(max_examples=200, deadline=None)
@given(VALUES, st.sampled_from(["tree", "none", "other"]))
def test_required_calls_are_those_of_the_tools(value: Any, name: str) -> None:
    tools = request(tools=[function("tree", TREE), function("none")], tool_choice="required")
    schema = json.loads(calls_schema(tools))
    fits = {"tree": valid(TREE, value), "none": value == {}, "other": False}[name]
    call = {"name": name, "parameters": value}
    assert valid(schema, [call]) == fits
    assert valid(schema, [{"name": "none", "parameters": {}}, call]) == fits
    assert not valid(schema, []) and not valid(schema, call) and not valid(schema, [{**call, "x": 1}])
    either = json.loads(schema_or_calls(TREE, tools))
    assert valid(either, [call]) == fits and valid(either, value) == valid(TREE, value)


def test_one_call_where_parallel_ones_are_off() -> None:
    tools = request(tools=[function("none")], tool_choice="required", parallel_tool_calls=False)
    call = {"name": "none", "parameters": {}}
    assert valid(json.loads(calls_schema(tools)), [call])
    assert not valid(json.loads(calls_schema(tools)), [call, call])


def test_arguments_of_a_named_call() -> None:
    named = {"type": "function", "function": {"name": "tree"}}
    tools = request(tools=[function("none"), function("tree", TREE)], tool_choice=named)
    assert tools.mode == "named" and [tool.name for tool in tools.callable] == ["tree"]
    assert json.loads(arguments_schema(tools.callable[0])) == TREE
    old = request(functions=[{"name": "f"}], function_call={"name": "f"})
    assert old.legacy and old.mode == "named" and not old.parallel
    assert valid(json.loads(arguments_schema(old.callable[0])), {})
    assert not valid(json.loads(arguments_schema(old.callable[0])), {"x": 1})


@pytest.mark.parametrize(
    ("template", "tools", "reasoning"),
    [
        ("{{ messages[0].content }}", "json", None),
        ("{{ tools }}{{ messages }}", "json", None),
        ("{{ tools }}<tool_call>{{ messages }}", "hermes", None),
        ("{{ tools }}<tool_call><think></think>{{ messages }}", "hermes", "qwen3"),
        ("{{ tools }}<tool_call><function=x>{{ messages }}", "qwen3_coder", None),
        ("{{ tools }}[TOOL_CALLS]{{ messages }}", "mistral", None),
        ("{{ tools }}<|python_tag|>{{ messages }}", "llama3_json", None),
        ("{{ tools }}[func_name1(params_name1=...)]{{ messages }}", "pythonic", None),
        ("{{ tools }}<｜tool▁calls▁begin｜><｜Assistant｜></think>{{ messages }}", "deepseek", "deepseek_r1"),
        ("{{ tools }}<|start|>assistant<|channel|>final{{ messages }}", "openai", "gpt_oss"),
    ],
)
def test_templates_tell_their_formats(template: str, tools: str | None, reasoning: str | None) -> None:
    compiled = ChatTemplate(template)
    found, thoughts = detect_tool_format(compiled), detect_reasoning_format(compiled)
    assert (found and found.name, thoughts and thoughts.name) == (tools, reasoning)
    assert AnswerFormats.choose(ApiConfig(), compiled) == AnswerFormats(found, thoughts)


def test_flags_override_the_template() -> None:
    template = ChatTemplate("{{ tools }}<tool_call><think></think>{{ messages }}")

    def chosen(**flags: Any) -> tuple[str | None, str | None]:
        formats = AnswerFormats.choose(ApiConfig(**flags), template)
        return formats.tools and formats.tools.name, formats.reasoning and formats.reasoning.name  # type: ignore[return-value]

    assert chosen() == ("hermes", "qwen3")
    assert chosen(tool_call_parser="none", reasoning_parser="none") == (None, None)
    assert chosen(enable_auto_tool_choice=False) == (None, "qwen3")
    for name in TOOL_FORMATS:
        assert chosen(tool_call_parser=name)[0] == name
    for name in REASONING_FORMATS:
        assert chosen(reasoning_parser=name)[1] == name


def reading(prompt: str, format: str, **fields: Any) -> Reading:
    messages = fields.pop("messages", [{"role": "user", "content": "<think>"}])
    body = ChatCompletionRequest(messages=messages, **fields)
    formats = AnswerFormats(TOOL_FORMATS["hermes"], REASONING_FORMATS[format])
    return Reading.of(body, read_tools(body), formats, prompt)


def test_where_the_answer_begins() -> None:
    assert reading("user: <think>\nassistant:", "qwen3").opening == "unsaid"
    assert reading("assistant:", "deepseek_r1").opening == "open"
    assert reading("assistant: <think>\n", "qwen3").opening == "open"
    assert reading("assistant: <think>\n\n</think>\n\n", "deepseek_r1").opening == "closed"
    for begun, opening in (
        ("<think>Hm", "open"),
        ("<think>Hm</think> So", "closed"),
        ("So", "closed"),
        ("", "open"),
    ):
        last = [{"role": "user", "content": "x"}, {"role": "assistant", "content": begun}]
        assert reading("x", "deepseek_r1", messages=last, continue_final_message=True).opening == opening


def test_ids_are_such_as_the_templates_take() -> None:
    tools = read_tools(ChatCompletionRequest(messages=[{"role": "user", "content": "x"}]))  # type: ignore[list-item]
    ids = {
        name: {Reading(tools, AnswerFormats(TOOL_FORMATS[name])).call_id() for _ in range(50)}
        for name in TOOL_FORMATS
    }
    assert all(len(found) == 50 for found in ids.values())
    assert all(len(one) == 9 and one.isalnum() for one in ids["mistral"])
    assert all(one.startswith("call_") for one in ids["hermes"])


def test_a_grammar_begins_behind_the_reasoning() -> None:
    def constrained(
        prompt: str, format: str, params: SamplingParams, **fields: Any
    ) -> StructuredOutput | None:
        return reading(prompt, format, **fields).constrain(params, None)[1].structured_output

    tools = {"tools": [function("f", TREE)]}
    form = SamplingParams(structured_output=StructuredOutput(json_object=True))
    for fields, params in (
        ({**tools, "tool_choice": "required"}, SamplingParams()),
        ({}, form),
        (tools, form),
    ):
        for prompt, format, after, preamble in (
            ("assistant:", "qwen3", None, ("<think>", "</think>")),
            ("assistant: <think>", "qwen3", "</think>", None),
            ("assistant:", "deepseek_r1", "</think>", None),
            ("</think>\n", "qwen3", None, None),
            ("", "gpt_oss", "<|channel|>final<|message|>", None),
        ):
            output = constrained(prompt, format, params, **fields)
            assert output is not None and (output.after, output.preamble) == (after, preamble)
    assert constrained("", "qwen3", SamplingParams(), **tools) is None
    declared = tools["tools"][0]["function"]
    strict = {"tools": [{"type": "function", "function": {**declared, "strict": True}}]}
    for prompt, after, preamble in (
        ("assistant:", None, ("<think>", "</think>")),
        ("assistant: <think>", "</think>", None),
        ("</think>\n", None, None),
    ):
        output = constrained(prompt, "qwen3", SamplingParams(), **strict)
        assert output is not None and output.kind == "structural_tag"
        assert (output.after, output.preamble) == (after, preamble)
    for kind, after in (
        (StructuredOutput(grammar='start: "a"'), "</think>"),
        (StructuredOutput(structural_tag='{"structures": [], "triggers": ["<"]}'), None),
    ):
        output = constrained("assistant:", "qwen3", SamplingParams(structured_output=kind))
        assert output is not None and (output.after, output.preamble) == (after, None)
    with pytest.raises(Exception, match="tool_choice"):
        constrained("", "qwen3", SamplingParams(structured_output=StructuredOutput(regex="a")), **tools)
