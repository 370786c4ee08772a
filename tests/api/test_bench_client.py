"""The benchmarks' client against streams as other servers send them."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from api.bench.client import Measurement, Target, open_session, send
from api.bench.workload import WorkItem

TEXT = {"choices": [{"text": "a"}]}
LAST = {"choices": [{"text": "b", "finish_reason": "length"}]}
ITEM = WorkItem("one", max_tokens=2)


def read(*events: dict | str) -> Measurement:
    """What the client sees of a stream of ``events``."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            text = event if isinstance(event, str) else json.dumps(event)
            await response.write(f"data: {text}\n\n".encode())
        return response

    async def run() -> Measurement:
        app = web.Application()
        app.router.add_post("/v1/completions", answer)
        async with TestServer(app) as server:
            target = Target(str(server.make_url("")).rstrip("/"), "m")
            async with open_session(target) as session:
                return await send(session, target, ITEM)

    return asyncio.run(run())


@pytest.mark.parametrize("end", [("[DONE]",), ()])
def test_a_stream_is_whole_once_it_has_a_finish_reason(end: tuple[str, ...]) -> None:
    seen = read(TEXT, LAST, *end)
    assert seen.ok and seen.text == "ab" and seen.finish_reason == "length" and len(seen.token_times) == 2


def test_a_stream_that_is_cut_off_is_a_failure() -> None:
    seen = read(TEXT)
    assert not seen.ok and seen.error == "the stream ended early"


def test_an_error_in_a_stream_is_a_failure() -> None:
    seen = read(TEXT, {"error": {"message": "out of luck"}})
    assert not seen.ok and "out of luck" in (seen.error or "")
