"""From a turn's events to the output items and the stream events of a response.

Knows the order of OpenAI's events and which item is open. Does not know how the answer is made or stored.

    output_item.added, content_part.added, (delta)*, done, content_part.done, output_item.done    per item
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from api.parsers.events import CallArguments, CallEnd, CallStart, Content, Event, Reasoning
from api.protocol.chat import ChatLogprob
from api.protocol.responses import (
    FunctionCall,
    OutputItem,
    OutputMessage,
    OutputText,
    ReasoningItem,
    ReasoningText,
)
from api.serving.turn import TurnDelta

StreamEvent = dict[str, Any]
"""``type`` and the fields of an event, but for its sequence number."""


class ResponseItems:
    """Builds the items of one response; each method gives the stream events of what it has changed."""

    def __init__(self) -> None:
        self.items: list[OutputItem] = []
        self._open: OutputItem | None = None

    def add(self, delta: TurnDelta) -> Iterator[StreamEvent]:
        """Takes in what is new."""
        logprobs = delta.logprobs.content if delta.logprobs else None
        for event in delta.events:
            yield from self._event(event, logprobs)
            if isinstance(event, Content):
                logprobs = None  # shown once, with the first text they belong to
        if logprobs and isinstance(self._open, OutputMessage):  # tokens whose text is held back
            yield from self._text("", logprobs)

    def close(self, *, complete: bool) -> Iterator[StreamEvent]:
        """Ends the item that is open; without any item an empty message is made, as an answer needs one."""
        if complete and not self.items:
            yield from self._begin(OutputMessage(id=_id("msg"), status="in_progress"))
        yield from self._end("completed" if complete else "incomplete")

    def _event(self, event: Event, logprobs: list[ChatLogprob] | None) -> Iterator[StreamEvent]:
        match event:
            case Content(text):
                if not isinstance(self._open, OutputMessage):
                    yield from self._begin(OutputMessage(id=_id("msg"), status="in_progress"))
                yield from self._text(text, logprobs)
            case Reasoning(text):
                if not isinstance(self._open, ReasoningItem):
                    yield from self._begin(ReasoningItem(id=_id("rs"), status="in_progress"))
                assert isinstance(self._open, ReasoningItem)
                self._open.content[0].text += text
                yield self._in_part("response.reasoning_text.delta", delta=text)
            case CallStart(name, call_id):
                call = FunctionCall(id=_id("fc"), call_id=call_id, name=name, status="in_progress")
                yield from self._begin(call)
            case CallArguments(text):
                assert isinstance(self._open, FunctionCall)
                self._open.arguments += text
                yield self._in_item("response.function_call_arguments.delta", delta=text)
            case CallEnd(complete):
                yield from self._end("completed" if complete else "incomplete")

    def _text(self, text: str, logprobs: list[ChatLogprob] | None) -> Iterator[StreamEvent]:
        assert isinstance(self._open, OutputMessage)
        part = self._open.content[0]
        part.text += text
        if logprobs:
            part.logprobs = part.logprobs or []
            part.logprobs.extend(logprobs)
        shown = [entry.model_dump() for entry in logprobs or []]
        yield self._in_part("response.output_text.delta", delta=text, logprobs=shown)

    def _begin(self, item: OutputItem) -> Iterator[StreamEvent]:
        yield from self._end("completed")
        self._open = item
        self.items.append(item)
        yield self._at("response.output_item.added", item=item.model_dump())
        if isinstance(item, OutputMessage):
            item.content.append(OutputText(text=""))
        elif isinstance(item, ReasoningItem):
            item.content.append(ReasoningText(text=""))
        else:
            return
        yield self._in_part("response.content_part.added", part=item.content[0].model_dump())

    def _end(self, status: Any) -> Iterator[StreamEvent]:
        item = self._open
        if item is None:
            return
        if isinstance(item, FunctionCall):
            done = {"name": item.name, "arguments": item.arguments}
            yield self._in_item("response.function_call_arguments.done", **done)
        else:
            part = item.content[0]
            if isinstance(part, OutputText):
                logprobs = [entry.model_dump() for entry in part.logprobs or []]
                yield self._in_part("response.output_text.done", text=part.text, logprobs=logprobs)
            else:
                yield self._in_part("response.reasoning_text.done", text=part.text)
            yield self._in_part("response.content_part.done", part=part.model_dump())
        item.status = status
        yield self._at("response.output_item.done", item=item.model_dump())
        self._open = None

    def _at(self, kind: str, **fields: Any) -> StreamEvent:
        return {"type": kind, "output_index": len(self.items) - 1, **fields}

    def _in_item(self, kind: str, **fields: Any) -> StreamEvent:
        assert self._open is not None
        return self._at(kind, item_id=self._open.id, **fields)

    def _in_part(self, kind: str, **fields: Any) -> StreamEvent:
        return self._in_item(kind, content_index=0, **fields)


def _id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"
