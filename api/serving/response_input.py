"""From a Responses request to a chat request: items become messages, flat tools become chat tools.

Knows the items of the Responses API that a text model can use; others are refused by name. Does not know
stored responses: a conversation's earlier items come in as a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from api.errors import ApiError, bad_request, printable, to_api_error
from api.protocol.chat import ChatCompletionRequest
from api.protocol.responses import PASSED_ON, ResponsesRequest
from vllm_jax.errors import InvalidRequestError

Item = dict[str, Any]

INCLUDES_LOGPROBS = "message.output_text.logprobs"
_INCLUDES = frozenset(
    {
        INCLUDES_LOGPROBS,
        "reasoning.encrypted_content",  # reasoning is given in the clear, and read back from there
        "web_search_call.results",
        "web_search_call.action.sources",
        "file_search_call.results",
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "message.input_image.image_url",
    }
)
"""Values of ``include`` that mean something or ask for parts of what never happens here."""

_OWN_NAMES = {
    "max_completion_tokens": "max_output_tokens",
    "messages": "input",
    "input_tokens": "input",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
"""Fields of the chat request by the names they have here."""


@contextmanager
def own_names(names: Mapping[str, str] = _OWN_NAMES) -> Iterator[None]:
    """Makes errors about fields of the chat request name the fields that the client has sent.

    A chat request that cannot be built out of them is such an error too.
    """
    try:
        yield
    except (ApiError, InvalidRequestError) as error:
        if (own := _renamed(error.param, str(to_api_error(error).detail), names)) is None:
            raise
        raise own from None
    except ValidationError as error:
        found = to_api_error(RequestValidationError(error.errors()))
        raise _renamed(found.param, str(found.detail), names) or found from None


def _renamed(param: str | None, message: str, names: Mapping[str, str]) -> ApiError | None:
    """The error under the field's own name, where it has one."""
    if param is None or (name := names.get(param.partition(".")[0])) is None:
        return None
    return bad_request(message.replace(param, name), name)


def chat_request(
    body: ResponsesRequest, items: Sequence[Item], instructions: str | None
) -> ChatCompletionRequest:
    """The chat request that answers ``items``, the whole conversation.

    Raises:
        ApiError: 400, a field or an item cannot be honoured; it is named.
    """
    given = body.given
    fields: dict[str, Any] = {name: given[name] for name in PASSED_ON if name in given}
    messages = list(to_messages(items))
    if instructions is not None:
        messages.insert(0, {"role": "system", "content": instructions})
    if not messages:
        raise bad_request("input must have at least one item.", "input")
    fields |= {"messages": messages, "max_completion_tokens": body.max_output_tokens}
    wants_logprobs = INCLUDES_LOGPROBS in _included(body)
    if body.top_logprobs is not None and not wants_logprobs and body.top_logprobs > 0:
        wants_logprobs = True
    if wants_logprobs:
        fields |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    if body.reasoning is not None and body.reasoning.effort is not None:
        fields["reasoning_effort"] = body.reasoning.effort
    if body.text is not None and body.text.format is not None:
        fields["response_format"] = _response_format(body.text.format)
    fields |= _tool_fields(body)
    return ChatCompletionRequest.model_validate(fields)


def input_items(body: ResponsesRequest) -> list[Item]:
    """The request's own input as items. Raises ApiError (400): there is none."""
    if not body.input:
        raise bad_request("input must be a text or a list with at least one item.", "input")
    if isinstance(body.input, str):
        return [{"type": "message", "role": "user", "content": body.input}]
    return body.input


def referred(item: Item, where: str) -> str | None:
    """The id that an ``item_reference`` refers to; None for other items. Raises ApiError (400)."""
    kind = item.get("type")
    if kind != "item_reference" and not (kind is None and item.keys() <= {"type", "id"}):
        return None
    return _text(item, "id", where)


def to_messages(items: Iterable[Item]) -> Iterator[dict[str, Any]]:
    """The messages of a chat that say what ``items`` say, in order.

    Text, reasoning and calls of one assistant turn, which are items of their own here, become one message.

    Raises:
        ApiError: 400, an item is malformed or of a type that is not supported.
    """
    turn: dict[str, Any] = {}
    for i, item in enumerate(items):
        where = f"input[{i}]"
        kind = item.get("type", "message" if "role" in item else None)
        if kind == "message" and item.get("role") == "assistant":
            text = _content(item.get("content"), where)
            before = turn.get("content")
            if before is not None or "tool_calls" in turn:
                yield _assistant(turn)
                turn = {}
            turn["content"] = text
        elif kind == "reasoning":
            if turn.keys() - {"reasoning"}:
                yield _assistant(turn)
                turn = {}
            turn.setdefault("reasoning", []).extend(_reasoning(item, where))
        elif kind == "function_call":
            turn.setdefault("tool_calls", []).append(_call(item, where))
        else:
            if turn:
                yield _assistant(turn)
                turn = {}
            if kind == "message":
                role = item.get("role")
                if not isinstance(role, str):
                    raise bad_request(f"{where}.role must be a text.", "input")
                yield {"role": role, "content": _content(item.get("content"), where)}
            elif kind == "function_call_output":
                call_id = _text(item, "call_id", where)
                yield {
                    "role": "tool",
                    "tool_call_id": call_id,
                    "content": _content(item.get("output"), where),
                }
            else:
                shown = printable(str(kind), 64)
                raise bad_request(f"{where}: an item of type {shown!r} is not supported.", "input")
    if turn:
        yield _assistant(turn)


def _assistant(turn: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": turn.get("content"), **turn}
    if "reasoning" in message:  # the newer name, and the one that most templates read
        message["reasoning"] = message["reasoning_content"] = "".join(message["reasoning"])
    return message


def _content(content: Any, where: str) -> str | list[dict[str, Any]]:
    """Text, or parts that the chat's messages know. Raises ApiError (400)."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise bad_request(f"{where}: content must be a text or a list of parts.", "input")
    return [{k: v for k, v in part.items() if k in ("type", "text", "refusal")} for part in content]


def _reasoning(item: Item, where: str) -> list[str]:
    parts = item.get("content") or item.get("summary") or []
    if not isinstance(parts, list):
        parts = [None]
    texts: list[Any] = [part.get("text") if isinstance(part, dict) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise bad_request(f"{where}: content and summary of reasoning must be lists of texts.", "input")
    return texts


def _call(item: Item, where: str) -> dict[str, Any]:
    name, call_id = _text(item, "name", where), _text(item, "call_id", where)
    arguments = _text(item, "arguments", where)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _text(item: Item, field: str, where: str) -> str:
    value = item.get(field)
    if not isinstance(value, str):
        raise bad_request(f"{where}.{field} must be a text.", "input")
    return value


def _included(body: ResponsesRequest) -> Sequence[str]:
    included = body.include or []
    if unknown := [name for name in included if name not in _INCLUDES]:
        raise bad_request(f"include: {printable(unknown[0], 64)!r} is not known.", "include")
    return included


def _response_format(format: Mapping[str, Any]) -> dict[str, Any]:
    kind = format.get("type")
    if kind != "json_schema":
        return {"type": kind}
    return {"type": kind, "json_schema": {k: v for k, v in format.items() if k != "type"}}


def _tool_fields(body: ResponsesRequest) -> dict[str, Any]:
    """``tools`` and ``tool_choice`` as a chat spells them. Raises ApiError (400)."""
    fields: dict[str, Any] = {}
    tools = body.tools or []
    for i, tool in enumerate(tools):
        kind = tool.get("type")
        if kind not in (None, "function"):
            shown = printable(str(kind), 64)
            raise bad_request(
                f"tools[{i}]: tools of type {shown!r} are not supported, only functions.", "tools"
            )
    choice = body.tool_choice
    if isinstance(choice, dict):
        if choice.get("type") == "allowed_tools":
            tools = _allowed(tools, choice)
            choice = choice.get("mode", "auto")
        elif choice.get("type") in (None, "function"):
            choice = {"type": "function", "function": {"name": choice.get("name")}}
        else:
            shown = printable(str(choice.get("type")), 64)
            raise bad_request(f"tool_choice of type {shown!r} is not supported.", "tool_choice")
    if tools:
        fields["tools"] = [
            {"type": "function", "function": {k: v for k, v in tool.items() if k != "type" and v is not None}}
            for tool in tools
        ]
    # LangChain and agents send a choice of "auto" or "none" although they have no tools.
    if choice is not None and (tools or choice not in ("auto", "none")):
        fields["tool_choice"] = choice
    return fields


def _allowed(tools: Sequence[Item], choice: Mapping[str, Any]) -> list[Item]:
    listed = choice.get("tools")
    if not isinstance(listed, list) or not all(isinstance(tool, dict) for tool in listed):
        raise bad_request("tool_choice.tools must be a list of tools.", "tool_choice")
    given = {name for tool in tools if isinstance(name := tool.get("name"), str)}
    names = set()
    for tool in listed:
        name = tool.get("name")
        if not isinstance(name, str) or name not in given:
            shown = printable(str(name), 64)
            raise bad_request(f"tool_choice allows {shown!r}, which is not in tools.", "tool_choice")
        names.add(name)
    return [tool for tool in tools if isinstance(tool.get("name"), str) and tool["name"] in names]
