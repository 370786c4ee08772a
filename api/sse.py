"""Server-sent events as the clients read them: for chats and completions ``data: <json>`` and a final
``data: [DONE]``; for responses and messages ``event: <type>`` lines before the data, and no ``[DONE]``.

Knows framing, keep-alive comments, failures in mid-stream and readers that go away. Does not know what the
events say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from api.errors import ApiError, to_api_error

T = TypeVar("T")

logger = logging.getLogger(__name__)

DONE = format_sse_event(data_str="[DONE]")
KEEP_ALIVE = format_sse_event(comment="keep-alive")
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class EventStream(EventSourceResponse):
    """Sends encoded events; closes their generator before it returns, whatever ended the answer."""

    def __init__(self, events: AsyncGenerator[bytes, None], headers: dict[str, str] | None = None):
        super().__init__(events, headers={**_HEADERS, **(headers or {})})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


def encode(chunk: BaseModel) -> bytes:
    """One event; fields that were never set are left out, fields set to None are null."""
    return format_sse_event(data_str=chunk.model_dump_json(exclude_unset=True))


async def event_stream(
    chunks: AsyncGenerator[BaseModel, None], *, keep_alive_s: float = 0.0
) -> AsyncGenerator[bytes, None]:
    """Encodes ``chunks`` and ends with ``[DONE]``; a failure becomes an error event before it.

    With ``keep_alive_s`` a comment is sent whenever there was nothing to send for so many seconds.
    """
    async with aclosing(chunks):
        try:
            async for chunk in _with_pauses(chunks, keep_alive_s) if keep_alive_s > 0 else chunks:
                yield KEEP_ALIVE if chunk is None else encode(chunk)
        except Exception as error:
            answer = to_api_error(error)
            if answer.status_code >= 500:
                logger.error("a stream failed: %s: %s", type(error).__name__, error)
            yield format_sse_event(data_str=to_json(answer.body).decode())
    yield DONE


async def typed_event_stream(
    events: AsyncGenerator[Mapping[str, Any], None],
    *,
    failed: Callable[[ApiError], Mapping[str, Any]],
    keep_alive_s: float = 0.0,
) -> AsyncGenerator[bytes, None]:
    """Encodes events that name their ``type``; a failure becomes the event that ``failed`` makes of it."""
    async with aclosing(events):
        try:
            async for event in _with_pauses(events, keep_alive_s) if keep_alive_s > 0 else events:
                yield KEEP_ALIVE if event is None else _encode_typed(event)
        except Exception as error:
            answer = to_api_error(error)
            if answer.status_code >= 500:
                logger.error("a stream failed: %s: %s", type(error).__name__, error)
            yield _encode_typed(failed(answer))


def _encode_typed(event: Mapping[str, Any]) -> bytes:
    return format_sse_event(event=event["type"], data_str=to_json(event).decode())


async def _with_pauses(items: AsyncIterator[T], pause_s: float) -> AsyncGenerator[T | None, None]:
    """The items, with None after every ``pause_s`` seconds of silence."""
    following: asyncio.Future[T] | None = None
    try:
        while True:
            following = following or asyncio.ensure_future(anext(items))
            done, _ = await asyncio.wait({following}, timeout=pause_s)
            if not done:
                yield None
                continue
            try:
                item = following.result()
            except StopAsyncIteration:
                return
            following = None
            yield item
    finally:
        if following is not None and following.cancel():
            await asyncio.wait({following})
