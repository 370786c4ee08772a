"""Does the host hold up the device? A server whose device takes 5 ms a step, and who waited for whom.

    python -m benchmarks.pipeline_trace [--running 64] [--step-ms 5] [--readers http] [--plot FILE.svg]

Real: scheduler, input building, output processing with the demo's tokenizer, the engine thread; with
``--readers asyncio`` readers in an event loop, and with ``--readers http`` the whole server (FastAPI, SSE,
uvicorn) and clients in another process. The device is a clock: a step begins when it has been dispatched and
the one before is done, takes 5 ms, and whoever reads its tokens sleeps until then. So the device needs no
processor and no lock of Python's, as a real one. Idle is the time between the end of a step and the next
dispatch, in the part of the run in which every sequence decodes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fake_device import FakeRunner, make_engine
from vllm_jax.engine.async_engine import AsyncEngine, DeltaStream
from vllm_jax.engine.llm_engine import LLMEngine
from vllm_jax.runner.model_runner import DispatchedStep, StepResult
from vllm_jax.sampling_params import SamplingParams
from vllm_jax.scheduled_batch import ScheduledBatch

CONTEXT = 256
PHASES = ("schedule", "build inputs", "wait for tokens", "update", "process", "deliver")

CLIENT = """
import asyncio, json, sys
port, count, prompt, max_tokens = (int(word) for word in sys.argv[2:])
async def one(number):
    body = {"model": sys.argv[1], "prompt": [5 + (number + i) % 400 for i in range(prompt)], "temperature": 0,
            "max_tokens": max_tokens, "ignore_eos": True, "stream": True}
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = ["POST /v1/completions HTTP/1.1", "Host: x", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(data)}", "", ""]
    writer.write("\\r\\n".join(lines).encode() + data)
    tail, events = b"", 0
    while chunk := await reader.read(65536):
        events += chunk.count(b"data: ")
        tail = (tail + chunk)[-64:]
        if b"data: [DONE]" in tail:
            break
    writer.close()
    return events
async def main():
    print(sum(await asyncio.gather(*(one(number) for number in range(count)))))
asyncio.run(main())
"""


@dataclass
class Trace:
    """Intervals in seconds of ``time.perf_counter``."""

    device: list[tuple[float, float]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    host: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {name: [] for name in PHASES})

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        function: Callable[..., Any] = getattr(owner, attribute)
        intervals = self.host[name]

        def traced(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                intervals.append((started, time.perf_counter()))

        setattr(owner, attribute, traced)

    def saturated(self, running: int) -> slice:
        """The steps in which every sequence decodes, but for the first few."""
        full = [i for i, rows in enumerate(self.rows) if rows == running]
        return slice(full[0] + 10, full[-1])

    def idle(self, running: int) -> float:
        """Fraction of the saturated time in which the device has nothing to do."""
        steps = self.device[self.saturated(running)]
        return 1 - sum(end - start for start, end in steps) / (steps[-1][1] - steps[0][0])


@dataclass
class ClockStep(DispatchedStep):
    ready: float = 0.0
    waits: list[tuple[float, float]] = field(default_factory=list)

    def read(self) -> StepResult:
        started = time.perf_counter()
        if (left := self.ready - started) > 0:
            time.sleep(left)
        self.waits.append((started, time.perf_counter()))
        return super().read()


class ClockRunner(FakeRunner):
    """A device that is busy for ``step_s`` seconds a step, by the clock."""

    def __init__(self, *sizes: int, step_s: float, trace: Trace):
        super().__init__(*sizes)
        self._step_s, self._trace, self._free_at = step_s, trace, 0.0

    def execute(self, batch: ScheduledBatch) -> DispatchedStep:
        step = super().execute(batch)
        start = max(time.perf_counter(), self._free_at)
        self._free_at = start + self._step_s
        self._trace.device.append((start, self._free_at))
        self._trace.rows.append(len(batch.rows))
        return ClockStep(batch, step.tokens, ready=self._free_at, waits=self._trace.host["wait for tokens"])


def traced_engine(args: argparse.Namespace) -> tuple[LLMEngine, Trace]:
    trace = Trace()
    length = CONTEXT + args.steps + 100
    runner = ClockRunner(args.running, length, 4096, 3328, step_s=args.step_ms / 1e3, trace=trace)
    engine = make_engine(args.running, length, max_num_batched_tokens=4096, runner=runner)
    trace.wrap(engine._scheduler, "schedule", "schedule")
    trace.wrap(runner._builder, "build", "build inputs")
    trace.wrap(engine._scheduler, "update", "update")
    trace.wrap(engine._outputs, "process", "process")
    return engine, trace


async def with_readers(args: argparse.Namespace, engine: LLMEngine, trace: Trace) -> None:
    server = AsyncEngine(engine)
    trace.wrap(server, "_deliver", "deliver")
    params = SamplingParams(temperature=0, max_tokens=args.steps, ignore_eos=True)

    async def read(stream: DeltaStream) -> int:
        return sum([len(delta.outputs[0].token_ids) async for delta in stream])

    rng = np.random.default_rng(0)
    prompts = [rng.integers(5, 400, CONTEXT).tolist() for _ in range(args.running)]
    counts = await asyncio.gather(
        *(read(server.generate(f"r{i}", prompt, params)) for i, prompt in enumerate(prompts))
    )
    assert set(counts) == {args.steps}
    await server.shutdown(0)


async def with_clients(args: argparse.Namespace, engine: LLMEngine, trace: Trace) -> int:
    import uvicorn

    from api.commands.serve import _uvicorn_config
    from api.server_config import LogConfig, ServerConfig
    from api.serving.context import make_context
    from vllm_jax.config import EngineConfig

    server = AsyncEngine(engine)
    trace.wrap(server, "_deliver", "deliver")
    config = ServerConfig(log=LogConfig(disable_uvicorn_access_log=True, uvicorn_log_level="warning"))
    context = make_context(server, EngineConfig(), config)
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    http = uvicorn.Server(_uvicorn_config(context))
    serving = asyncio.create_task(http.serve([listener]))
    words = (context.models.names[0], listener.getsockname()[1], args.running, CONTEXT, args.steps)
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, *map(str, words), stdout=subprocess.PIPE
    )
    output, _ = await client.communicate()
    http.should_exit = True
    await serving
    await server.shutdown(0)
    context.prompts.close()
    return int(output)


def plot(trace: Trace, args: argparse.Namespace, title: str) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    steps = trace.device[trace.saturated(args.running)]
    begin = steps[len(steps) // 2][0]
    end = begin + 8 * args.step_ms / 1e3
    colours = dict(
        zip(PHASES, ("#4c72b0", "#55a868", "#d9d9d9", "#c44e52", "#dd8452", "#8172b3"), strict=True)
    )
    figure, axes = pyplot.subplots(figsize=(10, 2.6))

    def bars(row: int, intervals: list[tuple[float, float]], colour: Any, label: str) -> None:
        shown = [(1e3 * (a - begin), 1e3 * (b - a)) for a, b in intervals if b > begin and a < end]
        axes.broken_barh(shown, (row - 0.35, 0.7), facecolors=colour, label=label, linewidth=0)

    bars(1, trace.device[::2], "#2f6f6f", "device step")
    bars(1, trace.device[1::2], "#5fa3a3", "device step")
    for name in PHASES:
        bars(0, trace.host[name], colours[name], name)
    axes.set_xlim(0, 1e3 * (end - begin))
    axes.set_yticks([0, 1], ["engine thread", "device"])
    axes.set_xlabel("ms")
    axes.set_title(title, fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(
        unique.values(), unique.keys(), ncols=7, loc="upper center", bbox_to_anchor=(0.5, -0.3), fontsize=8
    )
    figure.savefig(args.plot, bbox_inches="tight", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--running", type=int, default=64, help="running sequences")
    parser.add_argument("--steps", type=int, default=600, help="tokens of each")
    parser.add_argument("--step-ms", type=float, default=5.0, help="what a step takes on the device")
    parser.add_argument("--readers", choices=("asyncio", "http"), default="http")
    parser.add_argument("--switch-interval-ms", type=float, help="sys.setswitchinterval")
    parser.add_argument("--plot", type=Path, help="draw eight steps of the run (svg, png)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    if args.switch_interval_ms:
        sys.setswitchinterval(args.switch_interval_ms / 1e3)
    engine, trace = traced_engine(args)
    events = 0
    if args.readers == "http":
        events = asyncio.run(with_clients(args, engine, trace))
    else:
        asyncio.run(with_readers(args, engine, trace))
    chosen = trace.saturated(args.running)
    steps = trace.device[chosen]
    gaps = [1e3 * (b[0] - a[1]) for a, b in pairwise(steps)]
    found = {
        "device idle, %": 100 * trace.idle(args.running),
        "steps": len(steps),
        "steps that came late": sum(gap > 0 for gap in gaps),
        "longest gap, ms": max(gaps),
    }
    for name in PHASES:
        found[f"{name}, ms"] = 1e3 * float(np.median([b - a for a, b in trace.host[name][chosen]]))
    if events:
        found["SSE events a step"] = events / len(trace.device)
    title = f"{args.running} streams ({args.readers}), a device of {args.step_ms:g} ms a step"
    print(title)
    for name, value in found.items():
        print(f"  {name:<24}{value:8.2f}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    if args.plot:
        plot(trace, args, f"{title}: idle {found['device idle, %']:.2f} %")


if __name__ == "__main__":
    main()
