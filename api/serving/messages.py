"""Checks a conversation and brings it into the shape chat templates expect.

Knows OpenAI's message format; does not know any template.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from api.errors import bad_request, printable
from api.protocol.chat import ChatMessage

_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Kinds of content part that are text, and the field that holds it."""


def template_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """The conversation as plain dicts: content is a string or a list of ``{"type": "text", "text": …}``.

    Arguments of tool calls, which are JSON strings on the wire, become objects.

    Raises:
        ApiError: 400, a part is no text, or arguments are no JSON; ``param`` is the path of the field.
    """
    return [_template_message(message, f"messages.{i}") for i, message in enumerate(messages)]


def _template_message(message: ChatMessage, path: str) -> dict[str, Any]:
    shown = message.given
    content = shown.get("content")
    shown["content"] = "" if content is None else content
    if isinstance(content, list):
        shown["content"] = [_text_part(part, f"{path}.content.{i}") for i, part in enumerate(content)]
    if "tool_calls" in shown:
        shown["tool_calls"] = [
            _tool_call(call, f"{path}.tool_calls.{i}") for i, call in enumerate(shown["tool_calls"])
        ]
    return shown


def _text_part(part: str | dict[str, Any], path: str) -> dict[str, str]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type", "text")
    if not isinstance(kind, str) or kind not in _TEXT_PARTS:
        shown = printable(str(kind), 64) if isinstance(kind, str) else type(kind).__name__
        raise bad_request(
            f"{path}: this model reads text only; content of type {shown!r} cannot be honoured.", path
        )
    text = part.get(_TEXT_PARTS[kind])
    if not isinstance(text, str):
        raise bad_request(f"{path}: a part of type {kind!r} needs a string in {_TEXT_PARTS[kind]!r}.", path)
    return {"type": "text", "text": text}


def _tool_call(call: dict[str, Any], path: str) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise bad_request(f"{path}.function needs a name.", path)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            raise bad_request(f"{path}.function.arguments is not valid JSON.", path) from None
    return {**call, "function": {**function, "arguments": {} if arguments is None else arguments}}
