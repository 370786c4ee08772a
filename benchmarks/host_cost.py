"""What a step costs the host: the engine around a device that answers at once.

    python -m benchmarks.host_cost [--running 256] [--context 1024] [--steps 400] [--sampled] [--json FILE]

Real: scheduler, input building, output processing (incremental detokenization with the demo's tokenizer),
metrics, the engine thread and its delivery to asyncio readers. Not real: the device. A step's tokens are
there as soon as it is dispatched.

Two runs, in ms a step while every sequence decodes. "engine": the engine alone. "engine thread": the
server's engine thread, with a reader for every request in an event loop. It is the processor time of the
engine's thread, because with a device that never takes any time the two threads only wait for each other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fake_device import make_engine
from vllm_jax.engine.async_engine import AsyncEngine, DeltaStream
from vllm_jax.engine.collector import frozen_heap
from vllm_jax.engine.llm_engine import LLMEngine
from vllm_jax.engine.request import Request
from vllm_jax.sampling_params import SamplingParams

WARM_UP_STEPS = 20
Average = Callable[[Iterable[float]], float]


class Stopwatch:
    """Processor time of this thread in wrapped functions, summed; :meth:`lap` ends a step."""

    def __init__(self) -> None:
        self.laps: list[dict[str, float]] = []
        self._now: dict[str, float] = {}

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        function: Callable[..., Any] = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._now[name] = self._now.get(name, 0.0) + time.thread_time() - started

        setattr(owner, attribute, timed)

    def lap(self) -> None:
        self.laps.append(self._now)
        self._now = {}

    def summary(self, steps: int, average: Average) -> dict[str, float]:
        """Of the first ``steps`` laps, ms: the average of each part; median, mean and p99 of the whole.

        What comes in every sixteenth step only, a new block, may be in no median.
        """
        laps = self.laps[:steps]
        assert len(laps) == steps, f"all {steps} steps were seen, and not {len(laps)}"
        found: dict[str, float] = {
            name: 1e3 * average(lap.get(name, 0.0) for lap in laps)
            for name in ("schedule", "build inputs", "update", "process", "record", "deliver")
            if name in laps[0]
        }
        totals = sorted(lap["step"] + lap.get("deliver", 0.0) for lap in laps)
        found["step, mean"] = 1e3 * statistics.fmean(totals)
        found["step, median"] = 1e3 * statistics.median(totals)
        found["step, p99"] = 1e3 * totals[int(len(totals) * 0.99)]
        return found


def watch(engine: LLMEngine, watch: Stopwatch) -> None:
    watch.wrap(engine._scheduler, "schedule", "schedule")
    watch.wrap(engine._runner, "execute", "build inputs")
    watch.wrap(engine._scheduler, "update", "update")
    watch.wrap(engine._outputs, "process", "process")
    watch.wrap(engine, "_record", "record")
    watch.wrap(engine, "step", "step")


def requests(running: int, context: int, params: SamplingParams) -> list[Request]:
    rng = np.random.default_rng(0)
    return [Request(f"r{i}", rng.integers(5, 500, context).tolist(), params) for i in range(running)]


def tokens_a_step(running: int) -> int:
    """The budget; at least half of it is left to prompts while all others decode."""
    return max(2048, 2 * running)


def until_all_decode(engine: LLMEngine) -> None:
    while engine._scheduler.num_waiting or engine._scheduler._prefilling:
        engine.step()


def synchronous(running: int, context: int, steps: int, params: SamplingParams) -> Stopwatch:
    length = context + (params.max_tokens or 0) + 1
    engine = make_engine(running, length, max_num_batched_tokens=tokens_a_step(running))
    for request in requests(running, context, params):
        engine.add_request(engine.prepare(request))
    until_all_decode(engine)
    clock = Stopwatch()
    watch(engine, clock)
    with frozen_heap():
        for _ in range(WARM_UP_STEPS + steps):
            engine.step()
            clock.lap()
    clock.laps = clock.laps[WARM_UP_STEPS:]
    return clock


def asynchronous(running: int, context: int, params: SamplingParams) -> Stopwatch:
    length = context + (params.max_tokens or 0) + 1
    engine = make_engine(running, length, max_num_batched_tokens=tokens_a_step(running))
    clock = Stopwatch()

    async def read(stream: DeltaStream) -> int:
        return sum([len(delta.outputs[0].token_ids) async for delta in stream])

    async def run() -> list[int]:
        server = AsyncEngine(engine)
        watch(engine, clock)
        clock.wrap(server, "_deliver", "deliver")
        obey = server._obey

        def end_of_lap() -> bool:
            clock.lap()
            if not all(clock.laps[-1].get(part) for part in ("process", "deliver")):
                clock.laps.pop()
            elif len(engine._scheduler._decoding) < running and len(clock.laps) <= WARM_UP_STEPS:
                clock.laps.clear()  # Some still prefill.
            return obey()

        server._obey = end_of_lap  # type: ignore[method-assign]
        loop = asyncio.get_running_loop()
        try:
            streams = [
                server.generate(r.request_id, r.prompt_token_ids, params)
                for r in requests(running, context, params)
            ]
            readers = [loop.create_task(read(stream)) for stream in streams]
            return await asyncio.gather(*readers)
        finally:
            await server.shutdown(0)

    counts = asyncio.run(run())
    assert min(counts) == max(counts) == params.max_tokens, "every reader got every token"
    clock.laps = clock.laps[WARM_UP_STEPS:]
    return clock


def measure(
    running: int, context: int, steps: int, *, sampled: bool = False, average: Average = statistics.median
) -> dict[str, dict[str, float]]:
    """Both runs' figures, ms a step: the average of each part; median, mean and p99 of the whole."""
    kind = SamplingParams(temperature=0.8, top_p=0.9) if sampled else SamplingParams(temperature=0)
    # The first to decode still does when the last one has for long enough.
    prefill_steps = running * context // (tokens_a_step(running) - running)
    params = replace(kind, max_tokens=prefill_steps + steps + 4 * WARM_UP_STEPS, ignore_eos=True)
    return {
        "engine": synchronous(running, context, steps, params).summary(steps, average),
        "engine thread": asynchronous(running, context, params).summary(steps, average),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--running", type=int, default=256, help="running sequences")
    parser.add_argument("--context", type=int, default=1024, help="prompt tokens of each")
    parser.add_argument("--steps", type=int, default=400, help="decode steps that are timed")
    parser.add_argument("--sampled", action="store_true", help="temperature and top-p instead of greedy")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    found = measure(args.running, args.context, args.steps, sampled=args.sampled)
    print(f"{args.running} running sequences, {args.context} prompt tokens each; ms a step, medians")
    for title, figures in found.items():
        print(f"\n{title}")
        for name, value in figures.items():
            print(f"  {name:<16}{value:8.3f}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
