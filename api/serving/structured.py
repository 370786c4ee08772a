"""From the fields of a request to the one form its output must have.

Knows the spellings and that only one of them may be used. What a schema or expression means, and whether it
can be honoured, is the engine's business.
"""

from __future__ import annotations

import json
from typing import Any

from api.errors import bad_request
from api.protocol.structured import ResponseFormat, StructuredOutputsFields, StructuredRequest
from vllm_jax.structured_output_params import StructuredOutput

_GUIDED = {
    "guided_json": "json_schema",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "guided_json_object": "json_object",
}


def structured_output(body: StructuredRequest) -> StructuredOutput | None:
    """The form that a request asks for, or None.

    Raises:
        ApiError, InvalidRequestError: it asks for several, or for one that is not valid; the field is named.
    """
    asked: dict[str, dict[str, Any]] = {}
    if body.response_format is not None and body.response_format.type != "text":
        asked["response_format"] = _response_format(body.response_format)
    if body.structured_outputs is not None:
        asked["structured_outputs"] = _structured_outputs(body.structured_outputs)
    for field, kind in _GUIDED.items():
        value = getattr(body, field)
        if value is not None and value is not False:
            asked[field] = {kind: _schema_text(value) if kind == "json_schema" else value}
    if not asked:
        return None
    if len(asked) > 1:
        raise bad_request(
            f"Only one of {', '.join(asked)} can be honoured: each asks for a form of its own.", [*asked][1]
        )
    [(param, fields)] = asked.items()
    if param.startswith("guided_") and body.guided_whitespace_pattern is not None:
        fields["whitespace_pattern"] = body.guided_whitespace_pattern
    if fields.get("whitespace_pattern") == "":
        fields |= {"whitespace_pattern": None, "whitespace_flexible": False}
    if fields.get("choice") is not None:
        fields["choice"] = tuple(fields["choice"])
    return StructuredOutput(**fields, param=param)


def _response_format(given: ResponseFormat) -> dict[str, Any]:
    if given.type == "json_object":
        return {"json_object": True}
    if given.type == "structural_tag":
        return {"structural_tag": json.dumps(given.model_dump(exclude_none=True))}
    named = given.json_schema
    if named is None or named.schema_ is None:
        raise bad_request(
            "response_format of type json_schema: json_schema.schema must be provided.", "response_format"
        )
    return {
        "json_schema": _schema_text(named.schema_),
        "best_effort": named.strict is False,
        "disable_additional_properties": True,  # what clients that leave it unsaid mean
    }


def _structured_outputs(given: StructuredOutputsFields) -> dict[str, Any]:
    tag = given.structural_tag
    return {
        "json_schema": None if given.json_ is None else _schema_text(given.json_),
        "regex": given.regex,
        "choice": given.choice,
        "grammar": given.grammar,
        "json_object": bool(given.json_object),
        "structural_tag": json.dumps(tag) if isinstance(tag, dict) else tag,
        "whitespace_pattern": given.whitespace_pattern,
        "whitespace_flexible": not given.disable_any_whitespace,
        "disable_additional_properties": bool(given.disable_additional_properties),
    }


def _schema_text(schema: dict[str, Any] | bool | str) -> str:
    return schema if isinstance(schema, str) else json.dumps(schema)
