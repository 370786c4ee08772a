"""The XML format of Qwen3-Coder and its kin.

    <tool_call>
    <function=get_weather>
    <parameter=city>
    Roma
    </parameter>
    <parameter=days>
    3
    </parameter>
    </function>
    </tool_call>

Values are bare text: what they are is for the tool's schema to say. A call without <tool_call> in front
counts too, since these models forget it. Source: the chat template of Qwen/Qwen3-Coder-30B-A3B-Instruct.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping
from typing import Any

from api.parsers.events import CallArguments, CallEnd, CallStart, Content, Event, Parse
from api.parsers.json_calls import MAX_NAME
from api.parsers.source import Source

START, END = "<tool_call>", "</tool_call>"
FUNCTION, FUNCTION_END = "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"
MARKERS = (START, END)

_WORDS = {"True": True, "False": False, "None": None}
"""Python's words, a common slip."""


def parse(source: Source, names: Container[str]) -> Parse[None]:
    """Reads an answer. ``names`` may map the tools to the schemas of their arguments.

    What is no call is content, as it stands.
    """
    schemas = names if isinstance(names, Mapping) else {}
    while mark := (yield from source.until([START, FUNCTION])):
        source.mark()
        if mark == START:
            yield from source.skip_space()
            if not (yield from source.accept(FUNCTION)):
                source.rewind()
                yield Content(START)
                continue
        name = yield from source.text_before(">", limit=MAX_NAME)
        if not name or not (name := name.strip()):
            source.rewind()
            yield Content(mark)
            continue
        yield from source.accept(">")
        source.forget()
        yield CallStart(name)
        yield CallEnd((yield from _parameters(source, schemas.get(name) or {})))
        yield from source.skip_space()
        yield from source.accept(END)


def _parameters(source: Source, schema: Mapping[str, Any]) -> Parse[bool]:
    """Gives the parameters as a JSON object, each as soon as it is known. Returns whether they have ended."""
    opening = "{"
    while mark := (yield from source.until([PARAMETER, FUNCTION_END, END], _nothing)):
        if mark == END:
            return False
        if mark == FUNCTION_END:
            yield CallArguments("{}" if opening == "{" else "}")
            return True
        name = yield from source.text_before(">", limit=MAX_NAME)
        if name is None:
            continue
        yield from source.accept(">")
        text = yield from source.text_before(PARAMETER_END)
        if text is None:  # it was cut off
            source.take(len(source.rest))
            return False
        yield from source.accept(PARAMETER_END)
        value = _value(text.removeprefix("\n").removesuffix("\n"), _types(schema, name.strip()))
        yield CallArguments(f"{opening}{json.dumps(name.strip(), ensure_ascii=False)}: {value}")
        opening = ", "
    return False


def _nothing(text: str) -> Event:
    return Content("")


def _value(text: str, types: frozenset[str]) -> str:
    """The JSON text of a parameter whose schema allows ``types``; none means that it says nothing."""
    try:
        value = _WORDS[text.strip()] if text.strip() in _WORDS else json.loads(text)
        fits = not types or (_type(value) in types or ("number" in types and _type(value) == "integer"))
        if fits and not isinstance(value, str) and (types or not isinstance(value, int | float | None)):
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        pass
    return json.dumps(text, ensure_ascii=False)


def _type(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def _types(schema: Mapping[str, Any], name: str) -> frozenset[str]:
    """The types that a property of an object's schema allows."""
    properties = schema.get("properties")
    own = properties.get(name) if isinstance(properties, Mapping) else None
    return frozenset(_allowed(own, schema, depth=0))


def _allowed(own: Any, root: Mapping[str, Any], depth: int) -> Iterable[str]:
    if not isinstance(own, Mapping) or depth > 8:
        return
    kind = own.get("type")
    yield from (kind for kind in (kind if isinstance(kind, list) else [kind]) if isinstance(kind, str))
    if isinstance(own.get("enum"), list):
        yield from map(_type, own["enum"])
    if "const" in own:
        yield _type(own["const"])
    for keyword in ("anyOf", "oneOf", "allOf"):
        if isinstance(own.get(keyword), list):
            for part in own[keyword]:
                yield from _allowed(part, root, depth + 1)
    reference = own.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        target: Any = root
        for step in reference[2:].split("/"):
            target = target.get(step) if isinstance(target, Mapping) else None
        yield from _allowed(target, root, depth + 1)
