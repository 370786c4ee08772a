"""Tools for models whose chat template knows nothing of them: they are explained in plain words.

Knows messages as :func:`~vllm_jax.tokenizer.messages.prepare_messages` leaves them. Calls and their results
become text, since such a template would leave them out, or refuse the role "tool".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

INTRODUCTION = """You can call functions. To call some, answer with nothing but a JSON array like this:
[{"name": "function name", "arguments": {"argument name": "value"}}]
If none is needed, answer in words. These are the functions, with JSON Schemas of their arguments:"""


def explain_tools(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Returns ``messages`` with ``tools`` explained.

    The explanation ends the first system message, or stands before the text of the first user message (a
    template may take no system message, but takes these).
    """
    told = [dict(message) for message in messages]
    explanation = "\n".join([INTRODUCTION, *(_dump(tool.get("function", tool)) for tool in tools)])
    if told[0]["role"] == "system":
        return [_joined(told[0], "\n\n", explanation), *told[1:]]
    place = next((i for i, message in enumerate(told) if message["role"] == "user"), None)
    if place is None:
        return [{"role": "system", "content": explanation}, *told]
    told[place] = _joined(told[place], "\n\n", explanation, before=True)
    return told


def tell_calls(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns ``messages`` with calls and their results as text, results as one message of the user."""
    told: list[dict[str, Any]] = []
    names: dict[Any, str] = {}
    results: list[dict[str, Any]] = []  # those of the calls right before
    for message in messages:
        copy = dict(message)
        if calls := copy.pop("tool_calls", None):
            functions = [call["function"] for call in calls]
            names.update({call.get("id"): call["function"]["name"] for call in calls})
            written = [{"name": f["name"], "arguments": f["arguments"]} for f in functions]
            copy = _joined(copy, "\n", _dump(written))
        if copy["role"] == "tool":
            name = copy.get("name") or names.get(copy.get("tool_call_id"))
            head = f"Result of {name}: " if name else "Result: "
            result = _joined({"role": "user", "content": copy["content"]}, "", head, before=True)
            results.append(result)
            continue
        told += _together(results)
        results = []
        told.append(copy)
    return told + _together(results)


def _together(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One message with the contents of all, or none."""
    if not messages:
        return []
    contents = [message["content"] for message in messages]
    if all(isinstance(content, str) for content in contents):
        return [{**messages[0], "content": "\n".join(contents)}]
    parts = [[{"type": "text", "text": c}] if isinstance(c, str) else c for c in contents]
    return [{**messages[0], "content": [part for some in parts for part in some]}]


def _joined(
    message: Mapping[str, Any], separator: str, addition: str, *, before: bool = False
) -> dict[str, Any]:
    """The message with more content, which is text or a list of text parts as the content is."""
    content = message["content"]
    if isinstance(content, list):
        part = {"type": "text", "text": addition}
        joined: Any = [part, *content] if before else [*content, part]
    else:
        ordered = (addition, content) if before else (content, addition)
        joined = separator.join(text for text in ordered if text)
    return {**message, "content": joined}


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
