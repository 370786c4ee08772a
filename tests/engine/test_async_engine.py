"""The asyncio bridge: streams, readers that go away, readers that are slow, failures, shutdown."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from vllm_jax import SamplingParams
from vllm_jax.config import EngineConfig
from vllm_jax.engine.async_engine import AsyncEngine
from vllm_jax.errors import EngineDeadError, InvalidRequestError
from vllm_jax.outputs import RequestOutput

SETTINGS = {"max_num_seqs": 8, "max_num_batched_tokens": 32}
LONG = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
SHORT = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)


def start(checkpoint: Path) -> AsyncEngine:
    return AsyncEngine.start(EngineConfig.from_flat(model=str(checkpoint), **SETTINGS))


@pytest.fixture(scope="module")
def engine(mpt_checkpoint):
    engine = start(mpt_checkpoint)
    yield engine
    asyncio.run(engine.shutdown(0))


async def collect(stream) -> RequestOutput:
    whole = await anext(stream)
    async for delta in stream:
        whole.merge(delta)
    return whole


async def drained(engine: AsyncEngine) -> bool:
    """Whether nothing is left in the engine, after giving it a moment."""
    for _ in range(200):
        if engine.num_used_blocks == 0 and engine.num_requests == 0 and engine._engine.num_requests == 0:
            return True
        await asyncio.sleep(0.05)
    return False


async def test_deltas_add_up(engine) -> None:
    whole = await collect(engine.generate("whole", [5, 6, 7], SHORT))
    deltas = [delta async for delta in engine.generate("deltas", [5, 6, 7], SHORT)]
    assert [d.finished for d in deltas] == [False] * (len(deltas) - 1) + [True]
    assert [t for d in deltas for t in d.outputs[0].token_ids] == whole.outputs[0].token_ids
    assert "".join(d.outputs[0].text for d in deltas) == whole.outputs[0].text
    assert whole.outputs[0].finish_reason == "length" and len(whole.outputs[0].token_ids) == 6


async def test_a_bad_request_raises_at_the_call(engine) -> None:
    for ids, params in [
        ([], SHORT),
        ([10**6], SHORT),
        ([5] * 300, SHORT),
        ([5], SamplingParams(logprobs=21)),
    ]:
        with pytest.raises(InvalidRequestError):
            engine.generate("bad", ids, params)
    with pytest.raises(InvalidRequestError, match="priority"):
        engine.generate("bad", [5], SHORT, priority=1)
    assert await drained(engine)


@pytest.mark.parametrize("how", ["aclose", "drop", "cancel", "before the first step"])
async def test_a_reader_that_goes_away_frees_its_blocks(engine, how: str) -> None:
    stream = engine.generate("gone", [5, 6, 7], LONG)
    if how == "aclose":
        await anext(stream)
        await stream.aclose()
    elif how == "drop":
        await anext(stream)
        del stream
    elif how == "before the first step":
        del stream
    else:
        task = asyncio.create_task(collect(stream))
        del stream
        await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await drained(engine)


async def test_a_slow_reader_gets_merged_deltas(engine) -> None:
    stream = engine.generate("slow", [5, 6, 7], LONG)
    first = await anext(stream)
    other = await collect(engine.generate("fast", [5, 6, 7], LONG))
    rest = await collect(stream)
    first.merge(rest)
    assert first.outputs[0].token_ids == other.outputs[0].token_ids
    assert first.outputs[0].text == other.outputs[0].text


async def test_abort_ends_the_stream_with_its_reason(engine) -> None:
    stream = engine.generate("aborted", [5, 6, 7], LONG)
    whole = await anext(stream)
    engine.abort("aborted")
    async for delta in stream:
        whole.merge(delta)
    assert whole.outputs[0].finish_reason == "abort" and len(whole.outputs[0].token_ids) < 200
    engine.abort("never heard of")
    assert await drained(engine)


async def test_an_id_may_be_used_again_at_once(engine) -> None:
    old = engine.generate("again", [5, 6, 7], SamplingParams(n=4, seed=1, max_tokens=100, ignore_eos=True))
    await anext(old)
    await old.aclose()
    new = await collect(engine.generate("again", [5, 6, 7], SHORT))
    assert [o.finish_reason for o in new.outputs] == ["length"] and new.request_id == "again"
    assert await drained(engine)


async def test_the_gauges_come_back_to_zero(engine) -> None:
    for params in (SHORT, SamplingParams(max_tokens=1), SamplingParams(max_tokens=4, bad_words=["x"])):
        await collect(engine.generate("short", [5, 6, 7], params))
        assert await drained(engine)
        await asyncio.sleep(0.05)
        shown = engine.metrics.expose().decode()
        for name in ("vllm:num_requests_running", "vllm:kv_cache_usage_perc"):
            assert [line.split()[-1] for line in shown.splitlines() if line.startswith(name + "{")] == ["0.0"]


async def test_two_requests_may_bear_the_same_id(engine) -> None:
    one, two = engine.generate("twin", [5, 6, 7], SHORT), engine.generate("twin", [5, 6, 7], SHORT)
    first, second = await asyncio.gather(collect(one), collect(two))
    assert first.outputs[0].token_ids == second.outputs[0].token_ids


async def test_many_streams_with_readers_that_vanish(engine) -> None:
    """64 at once, a third of them gone in the middle; the others' tokens do not change."""
    rng = random.Random(0)
    prompts = [[rng.randrange(2, 300) for _ in range(rng.choice([1, 5, 40, 120]))] for _ in range(64)]
    params = [
        SamplingParams(seed=i, max_tokens=rng.choice([4, 20, 60]), ignore_eos=True, n=rng.choice([1, 1, 2]))
        for i in range(64)
    ]
    quiet = {i: await collect(engine.generate(f"q{i}", prompts[i], params[i])) for i in range(0, 64, 8)}

    async def client(i: int) -> RequestOutput | None:
        stream = engine.generate(f"r{i}", prompts[i], params[i])
        if i % 3 == 1:
            if i % 2:
                await anext(stream)
            await stream.aclose()
            return None
        return await collect(stream)

    answers = await asyncio.gather(*(client(i) for i in range(64)))
    for i, quiet_answer in quiet.items():
        if answers[i] is not None:
            assert [o.token_ids for o in answers[i].outputs] == [o.token_ids for o in quiet_answer.outputs]
    assert await drained(engine)


async def test_shutdown_finishes_what_it_can_and_aborts_the_rest(mpt_checkpoint) -> None:
    engine = start(mpt_checkpoint)
    short = asyncio.create_task(collect(engine.generate("short", [5, 6], SHORT)))
    await asyncio.sleep(0)
    await engine.shutdown(20)
    assert (await short).outputs[0].finish_reason == "length"
    with pytest.raises(EngineDeadError, match="shutting down"):
        engine.generate("late", [5], SHORT)
    assert not engine._thread.is_alive()

    engine = start(mpt_checkpoint)
    stream = engine.generate("long", [5, 6], LONG)
    whole = await anext(stream)
    await engine.shutdown(0)
    async for delta in stream:
        whole.merge(delta)
    assert whole.outputs[0].finish_reason in ("abort", "length")


async def test_a_failed_engine_fails_its_requests_and_says_so(mpt_checkpoint) -> None:
    engine = start(mpt_checkpoint)
    stream = engine.generate("doomed", [5, 6], LONG)
    await anext(stream)

    def fail(batch):
        raise RuntimeError("the device is gone")

    engine._engine._runner.execute = fail
    with pytest.raises(EngineDeadError):
        await collect(stream)
    assert engine.dead
    with pytest.raises(EngineDeadError):
        engine.generate("late", [5], SHORT)


async def test_one_request_that_cannot_be_shown_harms_no_other(engine, monkeypatch) -> None:
    from vllm_jax.engine.output_processor import _SequenceState

    push = _SequenceState.text_of

    def fragile(self, token):
        if self.sequence.request_id.startswith("fragile"):
            raise ValueError("broken text")
        return push(self, token)

    monkeypatch.setattr(_SequenceState, "text_of", fragile)
    broken, fine = await asyncio.gather(
        collect(engine.generate("fragile", [5, 6, 7], SHORT)),
        collect(engine.generate("fine", [5, 6, 7], SHORT)),
    )
    assert broken.outputs[0].finish_reason == "error"
    assert fine.outputs[0].finish_reason == "length"
    assert await drained(engine)
