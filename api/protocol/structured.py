"""The fields that ask for an output of a certain form: OpenAI's, vLLM's, and vLLM's older ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from api.protocol.base import RequestModel

JsonSchema = dict[str, Any] | bool


class NamedJsonSchema(RequestModel):
    """A JSON schema with a name. ``strict=false`` leaves out keywords that cannot be enforced."""

    name: str | None = None
    description: str | None = None
    schema_: JsonSchema | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(RequestModel):
    """OpenAI's ``response_format``."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: NamedJsonSchema | None = None


class StructuredOutputsFields(RequestModel):
    """vLLM's ``structured_outputs``: exactly one kind, and how JSON is written."""

    json_: JsonSchema | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: Annotated[list[str], Field(max_length=4096)] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | dict[str, Any] | None = None
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None


class StructuredRequest(RequestModel):
    """What chat and text completions share. At most one of them may ask for something."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputsFields | None = None
    guided_json: JsonSchema | str | None = None
    guided_regex: str | None = None
    guided_choice: Annotated[list[str], Field(max_length=4096)] | None = None
    guided_grammar: str | None = None
    guided_json_object: bool | None = None
    guided_whitespace_pattern: str | None = None
