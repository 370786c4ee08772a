"""From a request of Anthropic's API to a chat request: blocks become messages, tools become chat tools.

Knows the blocks that a text model can use; others are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from api.errors import bad_request, printable
from api.protocol.chat import ChatCompletionRequest
from api.protocol.messages import Block, InputMessage, MessagesRequest, PromptFields
from vllm_jax.tokenizer.messages import content_text

OWN_NAMES = {
    "max_completion_tokens": "max_tokens",
    "input_tokens": "messages",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "stop": "stop_sequences",
}
"""Fields of the chat request by the names they have here."""

_PASSED_ON = (
    "model",
    "temperature",
    "top_p",
    "top_k",
    *list(MessagesRequest.model_fields)[list(MessagesRequest.model_fields).index("cache_salt") :],
)
"""Fields that a chat request has under the same name and with the same meaning."""


def chat_request(body: PromptFields) -> ChatCompletionRequest:
    """The chat request that means the same; its last message is continued if it is the assistant's.

    Raises:
        ApiError: 400, a field or a block cannot be honoured; it is named.
    """
    given = body.given
    fields: dict[str, Any] = {name: given[name] for name in _PASSED_ON if name in given}
    messages = [m for i, message in enumerate(body.messages) for m in _messages(message, f"messages[{i}]")]
    if body.system:
        messages.insert(0, {"role": "system", "content": _system(body.system)})
    fields["messages"] = messages
    if messages[-1]["role"] == "assistant":
        fields |= {"continue_final_message": True, "add_generation_prompt": False}
    if isinstance(body, MessagesRequest):
        fields["max_completion_tokens"] = body.max_tokens
        if body.stop_sequences:
            fields["stop"] = body.stop_sequences
    fields |= _thinking(body)
    if body.output_config is not None and body.output_config.format is not None:
        format = body.output_config.format
        if format.get("type") != "json_schema":
            raise bad_request("output_config.format must be of type json_schema.", "output_config.format")
        schema = {"name": "output", "schema": format.get("schema"), "strict": True}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    fields |= _tool_fields(body)
    return ChatCompletionRequest.model_validate(fields)


def _thinking(body: PromptFields) -> dict[str, Any]:
    kwargs = dict(body.chat_template_kwargs or {})
    fields: dict[str, Any] = {}
    if body.output_config is not None and body.output_config.effort is not None:
        fields["reasoning_effort"] = body.output_config.effort
    if body.thinking is not None and body.thinking.type != "adaptive":
        kwargs["enable_thinking"] = body.thinking.type == "enabled"
    return {**fields, "chat_template_kwargs": kwargs} if kwargs else fields


def _system(system: str | Sequence[Block]) -> str:
    if isinstance(system, str):
        return system
    return content_text([_text_part(block, f"system[{i}]") for i, block in enumerate(system)])


def _messages(message: InputMessage, where: str) -> Iterator[dict[str, Any]]:
    """One message, and before it the results of tools that it carries. Raises ApiError (400)."""
    if isinstance(message.content, str):
        yield {"role": message.role, "content": message.content}
        return
    texts: list[Block] = []
    calls: list[dict[str, Any]] = []
    thoughts: list[str] = []
    results = 0
    for i, block in enumerate(message.content):
        place, kind = f"{where}.content[{i}]", block.get("type")
        if kind == "text":
            texts.append(_text_part(block, place))
        elif kind == "tool_result" and message.role == "user":
            results += 1
            yield _result(block, place)
        elif kind == "tool_use" and message.role == "assistant":
            calls.append(_call(block, place))
        elif kind == "thinking" and message.role == "assistant":
            thoughts.append(_string(block, "thinking", place))
        elif kind != "redacted_thinking":
            shown = printable(str(kind), 64)
            raise bad_request(f"{place}: a block of type {shown!r} is not supported here.", "messages")
    if results and not texts:
        return
    made: dict[str, Any] = {"role": message.role, "content": texts if texts or not calls else None}
    if calls:
        made["tool_calls"] = calls
    if thoughts:
        made["reasoning"] = made["reasoning_content"] = "".join(thoughts)
    yield made


def _result(block: Block, where: str) -> dict[str, Any]:
    content = block.get("content") or ""
    if not isinstance(content, str):
        if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
            raise bad_request(f"{where}.content must be a text or a list of blocks.", "messages")
        content = content_text([_text_part(part, f"{where}.content[{i}]") for i, part in enumerate(content)])
    if block.get("is_error"):  # chats have no field for it
        content = f"Error: {content}"
    return {"role": "tool", "tool_call_id": _string(block, "tool_use_id", where), "content": content}


def _call(block: Block, where: str) -> dict[str, Any]:
    given = block.get("input", {})
    if not isinstance(given, dict):
        raise bad_request(f"{where}.input must be an object.", "messages")
    function = {"name": _string(block, "name", where), "arguments": given}
    return {"id": _string(block, "id", where), "type": "function", "function": function}


def _text_part(block: Mapping[str, Any], where: str) -> Block:
    if block.get("type") != "text":
        shown = printable(str(block.get("type")), 64)
        raise bad_request(f"{where}: a block of type {shown!r} is not supported, only text.", "messages")
    return {"type": "text", "text": _string(block, "text", where)}


def _string(block: Mapping[str, Any], field: str, where: str) -> str:
    value = block.get(field)
    if not isinstance(value, str):
        raise bad_request(f"{where}.{field} must be a text.", "messages")
    return value


def _tool_fields(body: PromptFields) -> dict[str, Any]:
    """``tools`` and ``tool_choice`` as a chat spells them. Raises ApiError (400)."""
    fields: dict[str, Any] = {}
    if body.tools:
        fields["tools"] = list(_tools(body.tools))
    choice = body.tool_choice
    if choice is None:
        return fields
    modes = {"auto": "auto", "any": "required", "none": "none"}
    if choice.get("type") == "tool":
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif isinstance(choice.get("type"), str) and choice["type"] in modes:
        fields["tool_choice"] = modes[choice["type"]]
    else:
        raise bad_request("tool_choice.type must be auto, any, tool or none.", "tool_choice")
    if not body.tools and fields["tool_choice"] in ("auto", "none"):
        del fields["tool_choice"]
    if choice.get("disable_parallel_tool_use"):
        fields["parallel_tool_calls"] = False
    return fields


def _tools(tools: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for i, tool in enumerate(tools):
        if tool.get("type", "custom") not in ("custom", None):
            shown = printable(str(tool["type"]), 64)
            raise bad_request(
                f"tools[{i}]: tools of type {shown!r} are not supported, only your own.", "tools"
            )
        function = {"name": tool.get("name"), "parameters": tool.get("input_schema")}
        if tool.get("description") is not None:
            function["description"] = tool["description"]
        if tool.get("strict") is not None:
            function["strict"] = tool["strict"]
        yield {"type": "function", "function": function}
