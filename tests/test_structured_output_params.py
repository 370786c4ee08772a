"""What a request may state about the form of its output, before anything is compiled."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from vllm_jax import SamplingParams, StructuredOutput, StructuredOutputsParams
from vllm_jax.errors import InvalidRequestError


@pytest.mark.parametrize(
    "fields",
    [
        {"json_schema": "{}"},
        {"json_schema": "true"},
        {"json_object": True},
        {"regex": "a+"},
        {"choice": ["a", "b", "a"]},
        {"grammar": 'start: "a"'},
    ],
)
def test_each_kind_alone(fields: dict[str, Any]) -> None:
    output = StructuredOutput(**fields)
    assert output.kind == next(iter(fields))
    assert SamplingParams(structured_output=output).structured_output is output
    assert hash(output) == hash(StructuredOutput(**fields, param="response_format"))


def test_choices_are_told_apart_once() -> None:
    assert StructuredOutput(choice=["a", "b", "a"]).choice == ("a", "b")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "exactly one"),
        ({"json_object": False}, "exactly one"),
        ({"json_object": True, "regex": "a"}, "json_object, regex"),
        ({"json_object": 1}, "boolean"),
        ({"regex": ""}, "empty"),
        ({"regex": 3}, "string"),
        ({"regex": "\ud800"}, "surrogate"),
        ({"regex": "a" * 300_000}, "at most"),
        ({"choice": []}, "1 to"),
        ({"choice": "abc"}, "list"),
        ({"choice": ["a", 3]}, "strings"),
        ({"choice": ["\udfff"]}, "surrogate"),
        ({"choice": ["x" * 200_000, "y" * 200_000]}, "in all"),
        ({"json_schema": "[1]"}, "object"),
        ({"json_schema": "false"}, "object"),
        ({"json_schema": "{"}, "valid JSON"),
        ({"json_schema": '{"const": NaN}'}, "valid JSON"),
        ({"json_schema": '{"a":' * 100 + "1" + "}" * 100}, "nests deeper"),
        ({"json_schema": "[" * 100_000 + "]" * 100_000}, "valid JSON"),
        ({"json_object": True, "after": ""}, "empty"),
        ({"json_object": True, "after": "x" * 300}, "at most"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequestError, match=text) as caught:
        StructuredOutput(**fields, param="guided_json")
    assert caught.value.param == "guided_json"


def test_nesting_is_counted_up_to_the_limit() -> None:
    schema: Any = {}
    for _ in range(62):
        schema = {"not": schema}
    StructuredOutput(json_schema=json.dumps(schema))


@pytest.mark.parametrize("value", ["json", {"regex": "a"}])
def test_sampling_params_take_nothing_else(value: Any) -> None:
    with pytest.raises(InvalidRequestError, match="StructuredOutput"):
        SamplingParams(structured_output=value)


def test_allowed_ids_contradict_it() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(structured_output=StructuredOutput(regex="a"), allowed_token_ids=[1])
    assert caught.value.param == "allowed_token_ids"


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"json": SCHEMA}, {"json_schema": json.dumps(SCHEMA)}),
        ({"json": json.dumps(SCHEMA)}, {"json_schema": json.dumps(SCHEMA)}),
        ({"json": True, "whitespace_pattern": " ?"}, {"json_schema": "true", "whitespace_pattern": " ?"}),
        ({"regex": "a+"}, {"regex": "a+"}),
        ({"choice": ["a", "b"]}, {"choice": ("a", "b")}),
        ({"grammar": "start: A"}, {"grammar": "start: A"}),
        (
            {"json_object": True, "disable_any_whitespace": True},
            {"json_object": True, "whitespace_flexible": False},
        ),
        ({"structural_tag": {"format": {}}}, {"structural_tag": '{"format": {}}'}),
        (
            {"json": SCHEMA, "disable_additional_properties": True},
            {"json_schema": json.dumps(SCHEMA), "disable_additional_properties": True},
        ),
    ],
)
def test_the_spelling_of_vllm(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    params = SamplingParams(structured_outputs=StructuredOutputsParams(**theirs))
    assert params.structured_output == StructuredOutput(**ours)
    assert replace(params, n=2).structured_output == params.structured_output


@pytest.mark.parametrize(
    "theirs",
    [
        {},
        {"json": SCHEMA, "regex": "a"},
        {"json_object": False},
        {"choice": "abc"},
        {"json": 5},
        {"json": {"a": {1, 2}}},
        {"structural_tag": 5},
        {"json_object": "yes"},
        {"regex": "a", "disable_any_whitespace": "no", "disable_additional_properties": 3},
    ],
)
def test_what_is_wrong_in_the_spelling_of_vllm(theirs: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        StructuredOutputsParams(**theirs)
    assert caught.value.param == "structured_outputs"


def test_both_spellings_at_once() -> None:
    theirs = StructuredOutputsParams(regex="a")
    with pytest.raises(InvalidRequestError, match="not both"):
        SamplingParams(structured_outputs=theirs, structured_output=StructuredOutput(regex="a"))
    with pytest.raises(InvalidRequestError, match="StructuredOutputsParams"):
        SamplingParams(structured_outputs={"regex": "a"})  # type: ignore[arg-type]
