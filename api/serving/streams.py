"""Reading the engine's streams: to the end, several at once, and only while the client is there.

Knows asyncio and deltas; does not know what becomes of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from vllm_jax.outputs import RequestOutput

T = TypeVar("T")


class Deltas(Protocol):
    """A request in the engine; closing it aborts what has not ended."""

    def __aiter__(self) -> AsyncIterator[RequestOutput]: ...

    async def __anext__(self) -> RequestOutput: ...

    async def aclose(self) -> None:
        """Aborts the request if it has not ended."""


async def collect(streams: Sequence[Deltas]) -> list[RequestOutput]:
    """The whole outputs, in order. If one fails, or the caller is cancelled, all are closed."""

    async def whole(stream: Deltas) -> RequestOutput:
        output: RequestOutput | None = None
        async for delta in stream:
            if output is None:
                output = delta
            else:
                output.merge(delta)
        assert output is not None
        return output

    tasks = [asyncio.ensure_future(whole(stream)) for stream in streams]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        for stream in streams:
            await stream.aclose()


async def exhaust(items: AsyncGenerator[Any, None]) -> None:
    """Runs to the end what is made for what it does on the way."""
    async with aclosing(items):
        async for _ in items:
            pass


async def interleave(streams: Sequence[Deltas]) -> AsyncGenerator[tuple[int, RequestOutput], None]:
    """(index of the stream, delta) of all streams as they come; closes them all when it is closed.

    At most one delta a stream waits here; the rest is merged in the engine's own streams.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]):
            async for delta in streams[0]:
                yield 0, delta
        return
    ready: asyncio.Queue[tuple[int, RequestOutput | BaseException | None]] = asyncio.Queue(len(streams))

    async def pump(index: int, stream: Deltas) -> None:
        try:
            async for delta in stream:
                await ready.put((index, delta))
            await ready.put((index, None))
        except Exception as error:
            await ready.put((index, error))

    tasks = [asyncio.ensure_future(pump(i, stream)) for i, stream in enumerate(streams)]
    try:
        running = len(streams)
        while running:
            index, item = await ready.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
            else:
                yield index, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """The result of ``work``, which is cancelled when the client goes away. The body must have been read.

    Raises:
        ClientDisconnect: the client has gone.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        gone.cancel()
        if task.cancel():
            await asyncio.wait({task})


async def wait_for_first(
    receive: Receive, items: AsyncGenerator[T, None], limit_s: float | None
) -> AsyncGenerator[T, None]:
    """The same items, once the first is there or ``limit_s`` seconds have passed (None: no limit).

    So an error before the first item is raised here, where it can still become an HTTP status.

    Raises:
        ClientDisconnect: the client has gone; ``items`` is closed.
    """
    first = asyncio.ensure_future(anext(items))
    try:
        await while_connected(receive, asyncio.wait({first}, timeout=limit_s))
        if first.done() and not isinstance(first.exception(), StopAsyncIteration):
            first.result()
    except BaseException:
        if first.cancel():
            await asyncio.wait({first})
        await items.aclose()
        raise
    return _resume(first, items)


async def _resume(first: asyncio.Future[T], items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    async with aclosing(items):
        try:
            yield await first
        except StopAsyncIteration:
            return
        async for item in items:
            yield item


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
