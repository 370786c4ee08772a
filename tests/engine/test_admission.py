"""Limits on the queue: what they count, and when a place is free again."""

from __future__ import annotations

import asyncio

import pytest

from vllm_jax import SamplingParams
from vllm_jax.config import EngineConfig
from vllm_jax.engine.admission import AdmissionQueue
from vllm_jax.engine.async_engine import AsyncEngine
from vllm_jax.errors import ConfigError, OverloadedError
from vllm_jax.sequence import Sequence

LONG = SamplingParams(temperature=0, max_tokens=100, ignore_eos=True)


def sequences(num_tokens: int) -> list[Sequence]:
    return [Sequence("s", "r", 0, [1] * num_tokens, LONG, seed=0)]


def queue(requests: int | None = None, tokens: int | None = None) -> tuple[AdmissionQueue, list[int]]:
    refused: list[int] = []
    return AdmissionQueue(requests, tokens, lambda: refused.append(1)), refused


def test_requests_are_counted_until_they_start_or_leave() -> None:
    limits, refused = queue(requests=2)
    first = sequences(5)
    limits.admit("a", first)
    limits.admit("b", sequences(5))
    with pytest.raises(OverloadedError, match="2 requests are waiting"):
        limits.admit("c", sequences(5))
    first[0].first_scheduled_time = 1.0
    limits.admit("c", sequences(5))
    with pytest.raises(OverloadedError):
        limits.admit("d", sequences(5))
    limits.leave("b")
    limits.leave("b")
    limits.leave("never came")
    limits.admit("d", sequences(5))
    assert len(refused) == 2


def test_tokens_are_counted_and_an_empty_queue_takes_any_request() -> None:
    limits, refused = queue(tokens=10)
    limits.admit("long", sequences(50))
    with pytest.raises(OverloadedError, match="50 prompt tokens are waiting"):
        limits.admit("short", sequences(1))
    limits.leave("long")
    limits.admit("a", sequences(6))
    limits.admit("b", sequences(4))
    with pytest.raises(OverloadedError, match="10 prompt tokens"):
        limits.admit("c", sequences(1))
    assert len(refused) == 2


@pytest.mark.parametrize("name", ["max_num_queued_reqs", "max_num_queued_tokens"])
def test_a_limit_is_at_least_one(name: str) -> None:
    with pytest.raises(ConfigError, match=name.replace("_", "-")):
        EngineConfig.from_flat(**{name: 0}).validate()


async def test_a_flood_meets_the_limit_and_every_accepted_request_is_answered(mpt_checkpoint) -> None:
    config = EngineConfig.from_flat(
        model=str(mpt_checkpoint), max_num_seqs=2, max_num_batched_tokens=32, max_num_queued_reqs=3
    )
    engine = await asyncio.to_thread(AsyncEngine.start, config)
    accepted, refused = [], 0
    for number in range(20):
        try:
            accepted.append(engine.generate(f"r{number}", [5, 6, 7], LONG))
        except OverloadedError:
            refused += 1
    assert refused and len(accepted) >= 3
    for stream in accepted:
        tokens = [token async for delta in stream for token in delta.outputs[0].token_ids]
        assert len(tokens) == 100
    exposed = engine.metrics.expose().decode()
    [line] = [text for text in exposed.splitlines() if text.startswith("vllm:admission_rejections_total{")]
    assert float(line.split()[-1]) == refused
    again = engine.generate("later", [5, 6, 7], LONG)
    await again.aclose()
    await engine.shutdown(0)
