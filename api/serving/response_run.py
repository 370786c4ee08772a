"""A response while it is made: its events in order, for one reader or, in the background, for any number.

Knows statuses, sequence numbers and the ways an answer can end. Does not know HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from api.errors import ApiError, to_api_error
from api.protocol.responses import InputTokensDetails, OutputTokensDetails, Response, ResponseUsage, Status
from api.serving.response_output import ResponseItems, StreamEvent
from api.serving.turn import Turn
from vllm_jax.outputs import FinishReason

logger = logging.getLogger(__name__)

_ENDED: frozenset[Status] = frozenset({"completed", "incomplete", "failed", "cancelled"})

_EVENT_BYTES = 1024
"""What one event takes in memory, about: a few small objects for a token."""


class ResponseRun:
    """Makes ``response`` (mutated) out of ``turn``. ``failure`` is what went wrong, if something did."""

    def __init__(self, response: Response, turn: Turn, *, cached_tokens: bool):
        self.response = response
        self.failure: ApiError | None = None
        self._turn = turn
        self._cached_tokens = cached_tokens
        self._items = ResponseItems()
        response.output = self._items.items
        self._number = 0

    async def events(self) -> AsyncGenerator[StreamEvent, None]:
        """Makes the response; closing it aborts the rest."""
        yield self._snapshot("response.created")
        if self.response.background:
            yield self._snapshot("response.queued")
        self.response.status = "in_progress"
        yield self._snapshot("response.in_progress")
        reason: FinishReason | None = None
        try:
            async with aclosing(self._turn.deltas()) as deltas:
                async for delta in deltas:
                    for raw in self.response.output_messages or ():
                        raw.message += delta.text
                        raw.tokens += delta.token_ids
                    for event in self._items.add(delta):
                        yield self._numbered(event)
                    reason = delta.finish_reason or reason
        except Exception as error:
            logger.error("%s failed: %s: %s", self.response.id, type(error).__name__, error)
            self.failure = to_api_error(error)
        if reason == "abort":
            self.failure = ApiError(503, "The server is shutting down.")
        status: Status = "failed" if self.failure else "incomplete" if reason == "length" else "completed"
        for event in self._items.close(complete=status == "completed"):
            yield self._numbered(event)
        self._end(status)
        yield self._snapshot(f"response.{status}")

    def cancel(self) -> None:
        """Marks the response as cancelled; its reader has closed :meth:`events`."""
        for _ in self._items.close(complete=False):
            pass
        self._end("cancelled")

    def _end(self, status: Status) -> None:
        response = self.response
        response.status = status
        if status == "completed":
            response.completed_at = int(time.time())
        elif status == "incomplete":
            response.incomplete_details = {"reason": "max_output_tokens"}
        elif self.failure is not None:
            response.error = {"code": "server_error", "message": str(self.failure.detail)}
        usage = self._turn.usage.usage
        cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
        details = usage.completion_tokens_details
        response.usage = ResponseUsage(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=InputTokensDetails(cached_tokens=cached if self._cached_tokens else 0),
            output_tokens=usage.completion_tokens,
            output_tokens_details=OutputTokensDetails(
                reasoning_tokens=details.reasoning_tokens if details else 0
            ),
            total_tokens=usage.total_tokens,
        )

    def _snapshot(self, kind: str) -> StreamEvent:
        return self._numbered({"type": kind, "response": self.response.model_dump()})

    def _numbered(self, event: StreamEvent) -> StreamEvent:
        numbered = {**event, "sequence_number": self._number}
        self._number += 1
        return numbered


class BackgroundRun:
    """Makes a response in a task of its own; any number of readers may follow its events, now or later.

    ``ended`` is called when it has come to its end, whichever; ``released`` once, when no more work is done.
    """

    def __init__(self, run: ResponseRun, *, ended: Callable[[], None], released: Callable[[], None]):
        self._run = run
        self._ended = ended
        self._log: list[StreamEvent] = []
        self._news = asyncio.Event()
        self._abandoning: asyncio.Future[None] | None = None
        self._task = asyncio.create_task(self._make())
        self._task.add_done_callback(lambda _: released())

    async def _make(self) -> None:
        async with aclosing(self._run.events()) as events:
            async for event in events:
                self._append(event)
        self._ended()

    @property
    def size(self) -> int:
        """About how many bytes its events take."""
        return len(self._log) * _EVENT_BYTES

    def _append(self, event: StreamEvent) -> None:
        self._log.append(event)
        self._news.set()
        self._news = asyncio.Event()

    async def cancel(self) -> None:
        """Stops the work, if it has not ended, and says so to the readers."""
        if self._run.response.status in _ENDED:
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        if self._run.response.status in _ENDED:  # somebody else has cancelled it meanwhile
            return
        self._run.cancel()
        last: dict[str, Any] = {"type": "response.cancelled", "response": self._run.response.model_dump()}
        self._append({**last, "sequence_number": len(self._log)})
        self._ended()

    def abandon(self) -> None:
        """Cancels the work soon, if it has not ended: what it makes is no longer stored."""
        if self._run.response.status not in _ENDED:
            self._abandoning = asyncio.ensure_future(self.cancel())

    async def follow(self, after: int = -1) -> AsyncGenerator[StreamEvent, None]:
        """The events with a sequence number above ``after``, until the response has ended."""
        position = after + 1
        while True:
            news = self._news
            while position < len(self._log):
                yield self._log[position]
                position += 1
            if self._run.response.status in _ENDED and position >= len(self._log):
                return
            await news.wait()
