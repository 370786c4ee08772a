"""JSON schemas of whole answers: a list of calls, one call's arguments, or an answer of a form or calls.

Knows JSON Schema's keywords as far as schemas have to be put into one another. Compiles nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from api.parsers.call_tags import CallForm
from api.serving.tools import Tool, ToolRequest

_NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
"""Keywords whose values are objects of schemas: their keys are names."""
_DATA = frozenset({"enum", "const", "default", "examples"})
"""Keywords whose values are no schemas."""


def calls_schema(tools: ToolRequest) -> str:
    """JSON text of the schema of ``[{"name": …, "parameters": {…}}, …]``, one call at least."""
    return json.dumps({**_calls(tools), "$defs": _definitions(tools.callable)}, ensure_ascii=False)


def arguments_schema(tool: Tool) -> str:
    """JSON text of the schema of one tool's arguments."""
    return json.dumps({"type": "object", **tool.parameters}, ensure_ascii=False)


def call_forms(tools: ToolRequest) -> list[CallForm]:
    """The callable tools for a grammar of free text and calls; what is not strict may have any arguments."""
    return [
        CallForm(
            tool.name,
            {
                "type": "json_schema",
                "json_schema": {"type": "object", **(tool.parameters if tool.strict else {})},
                "strict": tool.strict,
            },
        )
        for tool in tools.callable
    ]


def schema_or_calls(schema: Any, tools: ToolRequest) -> str:
    """JSON text of the schema of answers that either satisfy ``schema`` or are a list of calls."""
    definitions = {**_definitions(tools.callable), "answer": moved(schema, "answer")}
    either = {"anyOf": [{"$ref": "#/$defs/answer"}, _calls(tools)], "$defs": definitions}
    return json.dumps(either, ensure_ascii=False)


def _calls(tools: ToolRequest) -> dict[str, Any]:
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "parameters": {"$ref": f"#/$defs/tool-{tool.name}"}},
            "required": ["name", "parameters"],
            "additionalProperties": False,
        }
        for tool in tools.callable
    ]
    calls_of_any = calls[0] if len(calls) == 1 else {"anyOf": calls}
    schema: dict[str, Any] = {"type": "array", "minItems": 1, "items": calls_of_any}
    return schema if tools.parallel else {**schema, "maxItems": 1}


def _definitions(tools: Sequence[Tool]) -> dict[str, Any]:
    return {
        f"tool-{tool.name}": moved({"type": "object", **tool.parameters}, f"tool-{tool.name}")
        for tool in tools
    }


def moved(schema: Any, name: str) -> Any:
    """A whole schema as it reads under ``#/$defs/name`` of another: its references to itself follow it."""
    if isinstance(schema, Mapping):
        schema = {key: value for key, value in schema.items() if key not in ("$id", "$schema")}
    return _moved(schema, f"#/$defs/{name}")


def _moved(schema: Any, root: str) -> Any:
    if isinstance(schema, list):
        return [_moved(element, root) for element in schema]
    if not isinstance(schema, Mapping):
        return schema
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _DATA:
            result[key] = value
        elif key in _NAMED_SCHEMAS and isinstance(value, Mapping):
            result[key] = {name: _moved(inner, root) for name, inner in value.items()}
        elif key == "$ref" and isinstance(value, str) and (value == "#" or value.startswith("#/")):
            result[key] = root + value[1:]
        else:
            result[key] = _moved(value, root)
    return result
