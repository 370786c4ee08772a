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

    Content is null where there are calls, or reasoning, and no text; where calls are enforced it is empty.
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
    null = not content and bool(calls or reasoning) and not reading.tools.enforced
    message = ChatResponseMessage(
        role=role,
        content=None if null else content,
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
        self._calls = 0

    def deltas(self, events: Sequence[Event]) -> list[ChatDelta]:
        """What is new, in order: text, or the beginning of one call (without arguments), or more of it."""
        made: list[ChatDelta] = []
        for event in _joined(events):
            match event:
                case Content(text):
                    made.append(ChatDelta(content=text))
                case Reasoning(text):
                    made.append(ChatDelta(reasoning=text, reasoning_content=text))
                case CallStart(name, id):
                    self._calls += 1
                    made.append(
                        self._call(FunctionCallDelta(name=name, arguments=""), id=id, type="function")
                    )
                case CallArguments(text):
                    made.append(self._call(FunctionCallDelta(arguments=text)))
        return made

    def _call(self, function: FunctionCallDelta, **once: Any) -> ChatDelta:
        if self._legacy:
            return ChatDelta(function_call=function)
        return ChatDelta(tool_calls=[ToolCallDelta(index=self._calls - 1, function=function, **once)])


def _joined(events: Sequence[Event]) -> list[Event]:
    """The events, with neighbours of one kind made one."""
    joined: list[Event] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, (Content, Reasoning, CallArguments)) and isinstance(last, type(event)):
            joined[-1] = type(event)(last.text + event.text)
        else:
            joined.append(event)
    return joined
