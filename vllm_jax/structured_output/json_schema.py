"""JSON schemas, made ready for the grammar compiler: what means nothing is dropped, what explodes refused.

Knows which keywords hold schemas. Does not compile anything; keywords that the compiler cannot enforce are
its own to refuse.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from vllm_jax.errors import InvalidRequestError
from vllm_jax.structured_output_params import StructuredOutput

_SCHEMA = {
    "additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames",
    "then", "unevaluatedItems", "unevaluatedProperties",
}  # fmt: skip
_LIST_OF_SCHEMAS = {"allOf", "anyOf", "items", "oneOf", "prefixItems"}
_NAMED_SCHEMAS = {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}

_ENFORCED_FORMATS = {
    "date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid",
}  # fmt: skip
"""Other formats say nothing about the text, as JSON Schema has it for formats that a reader does not know."""

_MAX_DIVISOR = 20_000
"""The automaton of ``multipleOf`` has as many states as the divisor, and combined divisors multiply."""


_NAMING = {"properties", "$ref", "allOf", "anyOf", "oneOf"}
_OTHER_NAMES = {"patternProperties", "unevaluatedProperties", "propertyNames"}

_MAX_OPTIONAL = 1_000
"""Properties of one object that may be left out: each adds to the work of every step."""


def compiler_schema(output: StructuredOutput) -> str:
    """The JSON text that the grammar compiler gets for a JSON constraint.

    Raises:
        InvalidRequestError: the schema would take the compiler too much time or memory.
    """
    schema = json.loads(output.json_schema or '{"type": "object"}')
    if schema is True:
        schema = {}
    divisor = 1
    closed = output.disable_additional_properties and not any(map(_is_extended, _schemas(schema)))
    for node in _schemas(schema):
        if node.get("format") not in _ENFORCED_FORMATS:
            node.pop("format", None)
        if node.get("uniqueItems") is False:
            del node["uniqueItems"]
        if closed and _names_all(node):
            node.setdefault("additionalProperties", False)
        node.pop("x-guidance", None)
        if _num_optional(node) > _MAX_OPTIONAL:
            raise InvalidRequestError(
                f"{output.param}: an object must have at most {_MAX_OPTIONAL} properties that are optional",
                output.param,
            )
        divisor = math.lcm(divisor, _digits(node.get("multipleOf")))
        if divisor > _MAX_DIVISOR:
            raise InvalidRequestError(
                f"{output.param}: multipleOf is only supported while the significant digits of all divisors "
                f"have a common multiple of at most {_MAX_DIVISOR}",
                output.param,
            )
    options: dict[str, Any] = {"whitespace_flexible": output.whitespace_flexible}
    if output.best_effort:
        options |= {"lenient": True, "coerce_one_of": True}
    if output.whitespace_pattern is not None:
        options["whitespace_pattern"] = output.whitespace_pattern
    return json.dumps({**schema, "x-guidance": options}, ensure_ascii=True)


def _schemas(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema object in ``schema``, outside first."""
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, dict):
            continue
        yield node
        for keyword, value in node.items():
            if keyword in _SCHEMA:
                waiting.append(value)
            if keyword in _LIST_OF_SCHEMAS and isinstance(value, list):
                waiting += value
            if keyword in _NAMED_SCHEMAS and isinstance(value, dict):
                waiting += value.values()


def _is_extended(node: dict[str, Any]) -> bool:
    """Whether several schemas name properties of what ``node`` describes: none of them knows them all."""

    def naming(keyword: str) -> int:
        parts = node.get(keyword)
        parts = parts if isinstance(parts, list) else []
        return sum(isinstance(part, dict) and bool(_NAMING & part.keys()) for part in parts)

    own = ("properties" in node) + ("$ref" in node)
    return own + naming("allOf") + bool(naming("anyOf")) + bool(naming("oneOf")) > 1


def _names_all(node: dict[str, Any]) -> bool:
    """Whether ``node`` names properties, and with these alone an object can be what it says."""
    named, required = _properties(node)
    if named is None or _OTHER_NAMES & node.keys():
        return False
    least = node.get("minProperties", 0)
    return required <= named and not (isinstance(least, int | float) and least > len(named))


def _num_optional(node: dict[str, Any]) -> int:
    named, required = _properties(node)
    return 0 if named is None else len(named - required)


def _properties(node: dict[str, Any]) -> tuple[set[str] | None, set[str]]:
    """The properties that a schema names (None: it has no such list), and those it requires."""
    properties, required = node.get("properties"), node.get("required")
    named = set(properties) if isinstance(properties, dict) else None
    return named, {n for n in required if isinstance(n, str)} if isinstance(required, list) else set()


def _digits(divisor: Any) -> int:
    """The significant digits of a ``multipleOf`` as an integer: 0.25 and 25 both give 25."""
    if isinstance(divisor, bool) or not isinstance(divisor, int | float) or divisor <= 0:
        return 1  # the compiler refuses it
    number = Decimal(repr(divisor)).normalize().as_tuple()
    return int("".join(map(str, number.digits)))
