"""A full queue answers 503 with Retry-After, and loses nobody it has accepted."""

from __future__ import annotations

import asyncio
import dataclasses

import httpx

from api.app import create_app
from api.server_config import ServerConfig
from api.serving.context import make_context
from vllm_jax.engine.async_engine import AsyncEngine

BODY = {"model": "m", "prompt": "hello", "max_tokens": 60, "temperature": 0, "ignore_eos": True}


async def test_more_requests_than_may_wait(engine_config) -> None:
    limits = dataclasses.replace(engine_config.scheduler, max_num_seqs=2, max_num_queued_reqs=4)
    config = dataclasses.replace(engine_config, scheduler=limits)
    engine = await asyncio.to_thread(AsyncEngine.start, config)
    server = ServerConfig()
    server = dataclasses.replace(server, api=dataclasses.replace(server.api, served_model_name=("m",)))
    context = make_context(engine, config, server)
    transport = httpx.ASGITransport(create_app(context))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=120) as client:
            # Four prompts in one request need four places: all of them, or none.
            many = await client.post(
                "/v1/completions", json={**BODY, "prompt": ["a", "b", "c", "d", "e"] * 2}
            )
            assert many.status_code == 503
            answers = await asyncio.gather(*(client.post("/v1/completions", json=BODY) for _ in range(24)))
            by_status = {status: [a for a in answers if a.status_code == status] for status in (200, 503)}
            assert sum(map(len, by_status.values())) == 24
            assert len(by_status[200]) >= 4
            assert by_status[503]
            for answer in by_status[200]:
                assert answer.json()["usage"]["completion_tokens"] == 60
            for answer in by_status[503]:
                assert int(answer.headers["retry-after"]) > 0
                assert "--max-num-queued-reqs" in answer.json()["error"]["message"]
            later = await client.post("/v1/completions", json=BODY)
            assert later.status_code == 200
        assert engine.num_requests == 0 and engine.num_used_blocks == 0
    finally:
        context.prompts.close()
        await engine.shutdown(0)
