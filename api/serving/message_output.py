"""From a turn's events to the content blocks and the stream events of a message of Anthropic's API.

message_start, (content_block_start, content_block_delta*, content_block_stop)*, message_delta, message_stop
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from pydantic_core import from_json

from api.errors import ApiError
from api.parsers.events import CallArguments, CallEnd, CallStart, Content, Event, Reasoning
from api.protocol.messages import Message, MessageUsage, StopReason, TextBlock, ThinkingBlock, ToolUseBlock
from api.serving.turn import Turn, TurnDelta

StreamEvent = dict[str, Any]

MessageBlock = TextBlock | ThinkingBlock | ToolUseBlock


class MessageBuilder:
    """Makes one message out of a turn, as the events of a stream and as a whole.

    ``cache_block`` is the number of tokens of a block of the prefix cache where the usage tells what was read
    from it and written to it, else None.
    """

    def __init__(self, message_id: str, turn: Turn, *, cache_block: int | None):
        self._turn = turn
        self._cache_block = cache_block
        self._begun = False
        self.message = Message(id=message_id, model=turn.model, usage=self._usage)
        self._open: MessageBlock | None = None
        self._arguments = ""
        self._called = False

    async def events(self) -> AsyncGenerator[StreamEvent, None]:
        """Makes the message; closing it aborts the rest.

        Raises:
            ApiError: 500, the output could not be made; 503, it was aborted because the server goes down.
            EngineDeadError: the engine has failed.
        """
        yield {"type": "message_start", "message": self.message.model_dump()}
        yield {"type": "ping"}
        async with aclosing(self._turn.deltas()) as deltas:
            async for delta in deltas:
                self._begun = True
                for event in delta.events:
                    for made in self._event(event):
                        yield made
                if delta.finish_reason is not None:
                    self._finish(delta)
        for made in self._close():
            yield made
        message = self.message
        message.usage = self._usage
        ended = {"stop_reason": message.stop_reason, "stop_sequence": message.stop_sequence}
        yield {"type": "message_delta", "delta": ended, "usage": message.usage.model_dump()}
        yield {"type": "message_stop"}

    @property
    def _usage(self) -> MessageUsage:
        usage = self._turn.usage.usage
        details = usage.prompt_tokens_details
        cached = created = 0
        if self._begun and self._cache_block is not None and details is not None:
            cached = details.cached_tokens
            full = usage.prompt_tokens - usage.prompt_tokens % self._cache_block
            created = max(0, full - cached)
        return MessageUsage(
            input_tokens=usage.prompt_tokens - cached - created,
            cache_creation_input_tokens=created,
            cache_read_input_tokens=cached,
            output_tokens=usage.completion_tokens,
        )

    def _finish(self, delta: TurnDelta) -> None:
        if delta.finish_reason == "abort":
            raise ApiError(503, "The server is shutting down.")
        reason: StopReason = "end_turn"
        if delta.finish_reason == "length":
            asked = self._turn.params.max_tokens
            full = asked is None or self._turn.usage.usage.completion_tokens < asked
            reason = "model_context_window_exceeded" if full else "max_tokens"
        elif self._called:
            reason = "tool_use"
        elif isinstance(delta.stop_reason, str):
            reason, self.message.stop_sequence = "stop_sequence", delta.stop_reason
        self.message.stop_reason = reason

    def _event(self, event: Event) -> Iterator[StreamEvent]:
        match event:
            case Content(text):
                if not isinstance(self._open, TextBlock):
                    yield from self._begin(TextBlock(text=""))
                assert isinstance(self._open, TextBlock)
                self._open.text += text
                yield self._delta(type="text_delta", text=text)
            case Reasoning(text):
                if not isinstance(self._open, ThinkingBlock):
                    yield from self._begin(ThinkingBlock(thinking=""))
                assert isinstance(self._open, ThinkingBlock)
                self._open.thinking += text
                yield self._delta(type="thinking_delta", thinking=text)
            case CallStart(name, call_id):
                self._arguments, self._called = "", True
                yield from self._begin(ToolUseBlock(id=call_id, name=name, input={}))
            case CallArguments(text):
                self._arguments += text
                yield self._delta(type="input_json_delta", partial_json=text)
            case CallEnd():
                yield from self._close()

    def _begin(self, block: MessageBlock) -> Iterator[StreamEvent]:
        yield from self._close()
        self._open = block
        self.message.content.append(block)
        yield {"type": "content_block_start", "index": self._index, "content_block": block.model_dump()}

    def _close(self) -> Iterator[StreamEvent]:
        block = self._open
        if block is None:
            return
        if isinstance(block, ThinkingBlock):
            yield self._delta(type="signature_delta", signature="")
        yield {"type": "content_block_stop", "index": self._index}
        if isinstance(block, ToolUseBlock):
            block.input = _object(self._arguments)
        self._open = None

    @property
    def _index(self) -> int:
        return len(self.message.content) - 1

    def _delta(self, **delta: Any) -> StreamEvent:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


def _object(text: str) -> dict[str, Any]:
    """The arguments of a call, as far as they go; empty where the model wrote no JSON object.

    Official clients read a stream's pieces the same way.
    """
    try:
        value = from_json(text, allow_partial=True)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
