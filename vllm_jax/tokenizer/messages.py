"""Chat messages as clients send them, made ready for a template.

Knows the shapes OpenAI's API allows (content as text, as parts or null; arguments as JSON text). Does not
know templates. Nothing is mutated: what goes in may belong to the request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vllm_jax.errors import InvalidRequestError

ContentFormat = Literal["string", "openai", "either"]
"""What a template reads as ``message.content``: one text, a list of ``{"type": "text", "text": ...}``, or
whichever of the two the client sent."""

_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


def prepare_messages(
    messages: Sequence[Mapping[str, Any]], content_format: ContentFormat, *, knows_developer: bool
) -> list[dict[str, Any]]:
    """Returns copies of ``messages`` in the form templates expect.

    Content takes the given format (where that is "string", the texts of parts are joined with newlines); the
    arguments of tool calls become objects; null fields go; "developer" becomes "system" unless the template
    ``knows_developer``; the deprecated ``function_call`` and role "function" become a tool call and its
    result; reasoning has both of its names. Fields of other names stay as they are.

    Raises:
        InvalidRequestError: there are no messages, or one is malformed or has a part that is no text;
            ``param`` is "messages", the text names the place.
    """
    if not isinstance(messages, (list, tuple)) or not messages:
        raise InvalidRequestError("messages must be a list with at least one message", "messages")
    prepared = []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, Mapping):
            raise InvalidRequestError(f"{where} must be an object", "messages")
        result = {key: value for key, value in message.items() if value is not None}
        role = result.get("role")
        if not isinstance(role, str) or not role:
            raise InvalidRequestError(f"{where}.role must be a non-empty text", "messages")
        if role == "developer" and not knows_developer:
            result["role"] = "system"
        result["content"] = _content(result.get("content", ""), content_format, f"{where}.content")
        _modernize(result, where)
        if "tool_calls" in result:
            calls = result["tool_calls"]
            if not isinstance(calls, (list, tuple)):
                raise InvalidRequestError(f"{where}.tool_calls must be a list", "messages")
            result["tool_calls"] = [_tool_call(c, f"{where}.tool_calls[{k}]") for k, c in enumerate(calls)]
            if not calls:
                del result["tool_calls"]
        prepared.append(result)
    return prepared


def _modernize(message: dict[str, Any], where: str) -> None:
    """Gives ``message`` (mutated) today's names of what clients and templates call by several."""
    thoughts = message.get("reasoning", message.get("reasoning_content"))
    if isinstance(thoughts, str):
        message.setdefault("reasoning", thoughts)
        message.setdefault("reasoning_content", thoughts)
    if "function_call" in message:
        call = message.pop("function_call")
        name = call.get("name") if isinstance(call, Mapping) else None
        if not isinstance(name, str):
            raise InvalidRequestError(f"{where}.function_call must be an object with a name", "messages")
        message.setdefault("tool_calls", [{"id": f"call_{name}", "type": "function", "function": call}])
    if message["role"] == "function":
        message["role"] = "tool"
        message.setdefault("tool_call_id", f"call_{message.get('name')}")


def content_text(content: str | Sequence[Any] | None) -> str:
    """Returns a checked message's text: that of its parts is joined with newlines, null is no text."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(_part_text(part, "content") for part in content)


def _content(content: Any, content_format: ContentFormat, where: str) -> str | list[dict[str, str]]:
    if isinstance(content, str) and content_format != "openai":
        return content
    parts = [content] if isinstance(content, str) else content
    if not isinstance(parts, (list, tuple)):
        raise InvalidRequestError(f"{where} must be a text or a list of parts", "messages")
    texts = [_part_text(part, f"{where}[{k}]") for k, part in enumerate(parts)]
    if content_format != "string":
        return [{"type": "text", "text": text} for text in texts]
    return "\n".join(texts)


def _part_text(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    field = _TEXT_PARTS.get(kind) if isinstance(kind, str) else None
    if field is None:
        raise InvalidRequestError(
            f"{where}: a part of type {str(kind)[:40]!r} is not supported, this model takes text only",
            "messages",
        )
    text = part.get(field)
    if not isinstance(text, str):
        raise InvalidRequestError(f"{where}.{field} must be a text", "messages")
    return text


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidRequestError(f"{where}.function must be an object with a name", "messages")
    if not isinstance(call.get("id", ""), str | None):
        raise InvalidRequestError(f"{where}.id must be a text", "messages")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            raise InvalidRequestError(f"{where}.function.arguments must be JSON", "messages") from None
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise InvalidRequestError(f"{where}.function.arguments must be a JSON object", "messages")
    return {**call, "function": {**function, "arguments": dict(arguments)}}
