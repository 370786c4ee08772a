"""What was read in an answer, in the shapes of ``/v1/chat/completions``: a message, or deltas of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from api.parsers.events import CallArguments, CallStart, Content, Event, Reasoning
from api.protocol.chat import (
    ChatDelta,
    ChatResponseMessage,
    FunctionCall,
    FunctionCallDelta,
    ToolCall,
    ToolCallDelta,
)
from api.serving.reading import Reading


def whole_message(events: Sequence[Event], role: str, echo: str, reading: Reading) -> ChatResponseMessage:
    """The message of a whole answer.

    A call that was cut off has the beginning of its arguments, as a stream would have sent it. Content is
    null where there are calls, or reasoning, and no text, or where an enforced call has not begun.
    """
    content, reasoning = echo, ""
    calls: list[ToolCall] = []
    for event in events:
        match event:
            case Content(text):
                content += text
            case Reasoning(text):
                reasoning += text
            case CallStart(name, id):
                calls.append(ToolCall(id=id, function=FunctionCall(name=name, arguments="")))
            case CallArguments(text):
                calls[-1].function.arguments += text
    said_otherwise = bool(calls or reasoning or reading.tools.enforced)
    message = ChatResponseMessage(
        role=role,
        content=None if said_otherwise and not content else content,
        reasoning=reasoning or None,
        reasoning_content=reasoning or None,
    )
    if reading.tools.legacy:
        message.function_call = calls[0].function if calls else None
    else:
        message.tool_calls = calls or None
    return message


class ChatDeltas:
    """Makes the deltas of one of the ``n`` answers."""

    def __init__(self, reading: Reading):
        self._legacy = reading.tools.legacy
        self._only_content = reading.only_content
        self._calls = 0

    def delta(self, events: Sequence[Event]) -> ChatDelta:
        """What is new. A call's first delta has its id, type and name."""
        content = "".join(event.text for event in events if isinstance(event, Content))
        reasoning = "".join(event.text for event in events if isinstance(event, Reasoning))
        shown: dict[str, Any] = {}
        if reasoning:
            shown.update(reasoning=reasoning, reasoning_content=reasoning)
        if content or self._only_content:
            shown["content"] = content
        if calls := self._call_deltas(events):
            if self._legacy:
                shown["function_call"] = calls[0].function
            else:
                shown["tool_calls"] = calls
        return ChatDelta(**shown)

    def _call_deltas(self, events: Sequence[Event]) -> list[ToolCallDelta]:
        deltas: list[ToolCallDelta] = []
        fresh = False  # whether the last delta is one of the call that is being written
        for event in events:
            match event:
                case CallStart(name, id):
                    function = FunctionCallDelta(name=name, arguments="")
                    deltas.append(ToolCallDelta(index=self._calls, id=id, type="function", function=function))
                    self._calls += 1
                    fresh = True
                case CallArguments(text) if fresh:
                    function = deltas[-1].function
                    function.arguments = (function.arguments or "") + text
                case CallArguments(text):
                    function = FunctionCallDelta(arguments=text)
                    deltas.append(ToolCallDelta(index=self._calls - 1, function=function))
                    fresh = True
        return deltas
