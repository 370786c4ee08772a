"""The framing of streams, and reading several at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from api.serving.streams import collect, interleave, wait_for_first, while_connected
from api.sse import EventStream, event_stream
from vllm_jax.errors import EngineDeadError, InvalidRequestError
from vllm_jax.outputs import CompletionOutput, RequestOutput


class Chunk(BaseModel):
    text: str
    extra: int | None = None


async def chunks(
    *texts: str, fail: Exception | None = None, pause_s: float = 0
) -> AsyncGenerator[Chunk, None]:
    for text in texts:
        await asyncio.sleep(pause_s)
        yield Chunk(text=text)
    if fail:
        raise fail


async def body(events: AsyncGenerator[bytes, None]) -> str:
    return b"".join([event async for event in events]).decode()


async def test_events_and_done() -> None:
    assert await body(event_stream(chunks("a", "b\n\nc\u2028"))) == (
        'data: {"text":"a"}\n\ndata: {"text":"b\\n\\nc\u2028"}\n\ndata: [DONE]\n\n'
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [(EngineDeadError("x"), 500), (RuntimeError("/secret"), 500), (InvalidRequestError("y"), 400)],
)
async def test_a_failure_in_mid_stream_is_an_event_before_done(error: Exception, code: int) -> None:
    first, failure, done = (await body(event_stream(chunks("a", fail=error)))).split("\n\n")[:3]
    assert json.loads(failure.removeprefix("data: "))["error"]["code"] == code
    assert "secret" not in failure and done == "data: [DONE]" and "error" not in first


async def test_silence_is_filled_with_comments() -> None:
    text = await body(event_stream(chunks("a", "b", pause_s=0.15), keep_alive_s=0.04))
    assert text.count(": keep-alive\n\n") >= 4
    events = [block for block in text.split("\n\n") if block.startswith("data")]
    assert events == ['data: {"text":"a"}', 'data: {"text":"b"}', "data: [DONE]"]


async def test_failures_are_told_with_keep_alive_too() -> None:
    text = await body(event_stream(chunks("a", fail=RuntimeError(), pause_s=0.01), keep_alive_s=0.5))
    assert '"code":500' in text and text.endswith("data: [DONE]\n\n")


class Stream:
    """An engine's stream that counts how it was ended."""

    def __init__(self, *texts: str, fail: Exception | None = None, endless: bool = False):
        self._texts = list(texts)
        self._fail = fail
        self._endless = endless
        self.closed = 0

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> RequestOutput:
        await asyncio.sleep(0)
        if self._texts:
            text = self._texts.pop(0)
            return RequestOutput("r", None, [1], [CompletionOutput(0, text, [2])], not self._texts)
        if self._fail:
            raise self._fail
        if self._endless:
            await asyncio.sleep(100)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1


async def test_collect_merges_each_stream() -> None:
    streams = [Stream("a", "b"), Stream("c")]
    outputs = await collect(streams)
    assert [o.outputs[0].text for o in outputs] == ["ab", "c"]
    assert outputs[0].outputs[0].token_ids == [2, 2]


async def test_collect_closes_all_if_one_fails() -> None:
    streams = [Stream("a", endless=True), Stream(fail=InvalidRequestError("no"))]
    with pytest.raises(InvalidRequestError):
        await collect(streams)
    assert [s.closed for s in streams] == [1, 1]


@pytest.mark.parametrize("count", [1, 3])
async def test_interleave_gives_every_delta_once(count: int) -> None:
    streams = [Stream(*(f"{i}{k}" for k in range(5))) for i in range(count)]
    seen: dict[int, list[str]] = {}
    async for i, delta in interleave(streams):
        seen.setdefault(i, []).append(delta.outputs[0].text)
    assert seen == {i: [f"{i}{k}" for k in range(5)] for i in range(count)}


@pytest.mark.parametrize("count", [1, 3])
async def test_interleave_closes_all_when_its_reader_leaves(count: int) -> None:
    streams = [Stream("a", endless=True) for _ in range(count)]
    items = interleave(streams)
    await anext(items)
    await items.aclose()
    assert all(s.closed for s in streams)


async def gone_after(seconds: float) -> dict[str, str]:
    await asyncio.sleep(seconds)
    return {"type": "http.disconnect"}


async def test_work_is_cancelled_when_the_client_goes() -> None:
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(ClientDisconnect):
        await while_connected(lambda: gone_after(0.02), work())
    assert cancelled.is_set()
    assert await while_connected(lambda: gone_after(100), asyncio.sleep(0, 5)) == 5


async def test_errors_before_the_first_item_are_raised_at_once() -> None:
    with pytest.raises(InvalidRequestError):
        await wait_for_first(
            lambda: gone_after(100), interleave([Stream(fail=InvalidRequestError("no"))]), None
        )
    stream = Stream(endless=True)
    with pytest.raises(ClientDisconnect):
        await wait_for_first(lambda: gone_after(0.02), interleave([stream]), None)
    assert stream.closed
    items = await wait_for_first(lambda: gone_after(100), interleave([Stream("a", "b")]), None)
    assert [delta.outputs[0].text async for _, delta in items] == ["a", "b"]


async def test_waiting_for_the_first_item_has_a_limit() -> None:
    stream = Stream(endless=True)
    items = await wait_for_first(lambda: gone_after(100), interleave([stream]), 0.02)
    waiting = asyncio.ensure_future(anext(items))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait({waiting})
    await items.aclose()
    assert stream.closed


@pytest.mark.parametrize("disconnects", [False, True])
async def test_the_response_closes_its_events(disconnects: bool) -> None:
    closed = asyncio.Event()

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            yield b"a"
            if disconnects:
                await asyncio.sleep(100)
        finally:
            closed.set()

    sent = []

    async def send(message: dict) -> None:
        sent.append(message)

    async def receive() -> dict[str, str]:
        return await gone_after(0.02 if disconnects else 100)

    scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
    await asyncio.wait_for(EventStream(events())(scope, receive, send), 5)
    assert closed.is_set() and sent[1]["body"] == b"a"
