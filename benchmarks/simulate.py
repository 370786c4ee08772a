"""The real scheduler against a clock that obeys the roofline of a TPU slice.

    python benchmarks/simulate.py --plot docs/simulation.png

The scheduler, the prefix cache and the ladder of compiled shapes are the ones that serve. Only the device is
arithmetic: a step takes as long as its bytes take at the chips' memory bandwidth or its FLOPs at their rate,
whichever is longer, plus a fixed overhead. So this shows what batching, budgets and KV memory allow at rates
that no test machine can be loaded with. It says nothing about kernels, and nothing of it is a measurement.

Assumed: data-sheet rates, of which --efficiency is reached; tensor parallelism over the slice at no cost;
a dense decoder of the Llama-3-8B shape in bfloat16; one step dispatched ahead, as the engine does.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vllm_jax.runner.buckets import ShapeRegistry
from vllm_jax.sampling_params import SamplingParams
from vllm_jax.scheduled_batch import ScheduledBatch
from vllm_jax.scheduler.scheduler import Scheduler
from vllm_jax.sequence import Sequence

TOKEN = 7
"""Every sampled token; none of it means anything."""


@dataclass(frozen=True)
class Chip:
    """Data-sheet figures of one chip: bytes a second, bfloat16 FLOPs a second, bytes of HBM."""

    bandwidth: float
    flops: float
    memory: float


CHIPS = {
    "v5e": Chip(819e9, 197e12, 16e9),
    "v6e": Chip(1638e9, 918e12, 32e9),
    "v5p": Chip(2765e9, 459e12, 95e9),
    "v7x": Chip(7380e9, 2307e12, 192e9),
}


@dataclass(frozen=True)
class Model:
    """A dense decoder; the defaults are the Llama-3-8B shape in bfloat16."""

    layers: int = 32
    hidden: int = 4096
    intermediate: int = 14336
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    vocab: int = 128256
    bytes_per_value: int = 2

    @property
    def layer_parameters(self) -> int:
        """Parameters of all layers."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def weight_bytes(self) -> float:
        """What a step reads of the weights: all but the input embedding."""
        return (self.layer_parameters + self.hidden * self.vocab) * self.bytes_per_value

    @property
    def resident_bytes(self) -> float:
        """What the weights take: both embeddings."""
        return self.weight_bytes + self.hidden * self.vocab * self.bytes_per_value

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one position."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.bytes_per_value


@dataclass(frozen=True)
class Machine:
    """A slice of chips running one model."""

    chip: Chip
    chips: int
    model: Model
    efficiency: float
    overhead_s: float
    utilization: float = 0.92

    def step_seconds(self, batch: ScheduledBatch, registry: ShapeRegistry) -> float:
        """The least time of one step, at the shape it is padded to."""
        rows = batch.rows
        decode = all(row.num_tokens == 1 for row in rows)
        shape = registry.shape_for(batch.num_tokens, len(rows), decode_only=decode)
        model = self.model
        positions = sum(row.start + row.num_tokens for row in rows)
        pairs = sum(row.num_tokens * (row.start + (row.num_tokens + 1) / 2) for row in rows)
        moved = model.weight_bytes + (positions + batch.num_tokens) * model.kv_bytes_per_token
        flops = 2 * shape.num_tokens * model.layer_parameters
        flops += 2 * shape.num_rows * model.hidden * model.vocab
        flops += 4 * pairs * model.heads * model.head_dim * model.layers
        bandwidth, rate = self.chip.bandwidth * self.chips, self.chip.flops * self.chips
        return max(moved / bandwidth, flops / rate) / self.efficiency + self.overhead_s

    def num_blocks(self, block_size: int) -> int:
        """KV blocks that fit beside the weights."""
        free = self.chip.memory * self.chips * self.utilization - self.model.resident_bytes
        return max(0, int(free // (block_size * self.model.kv_bytes_per_token)))


@dataclass(frozen=True)
class Load:
    """Requests of one kind: a prefix they all share, what is their own, what they generate; in tokens."""

    name: str
    prefix: int
    own: int
    output: int
    count: int
    """Requests a simulation."""


LOADS = {
    "short": Load("short chats: 64 shared + 64 in, 64 out", 64, 64, 64, 5000),
    "long": Load("long chats: 1024 shared + 1024 in, 256 out", 1024, 1024, 256, 2400),
    "documents": Load("documents: 6000 in, 128 out", 0, 6000, 128, 600),
    "reasoning": Load("reasoning: 256 shared + 256 in, 2048 out", 256, 256, 2048, 1000),
}
FACTORS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.5)
"""Offered rates, as fractions of the rate at which the queue should begin to grow."""


@dataclass
class Figures:
    """What came out of one simulation. Times are seconds of the simulated clock, but for ``host_us``."""

    chip: str
    load: str
    rate: float
    requests_per_second: float
    output_tokens_per_second: float
    ttft_p50: float
    ttft_p99: float
    itl_p50: float
    itl_p99: float
    kv_peak: float
    preemptions: int
    steps: int
    mean_batch: float
    device_busy: float
    host_us: float
    """Median time the real scheduler took for a step on this machine, microseconds."""


@dataclass(frozen=True)
class Limits:
    """The engine's settings."""

    max_num_seqs: int
    max_num_batched_tokens: int
    free_tokens: int = 256
    """As the engine chooses it for accelerators: how long prompts make room for running sequences; 0: not."""
    block_size: int = 64
    max_model_len: int = 8192


def simulate(
    machine: Machine, load: Load, rate: float, count: int, limits: Limits, *, seed: int = 0, chip: str = ""
) -> Figures:
    """Plays ``count`` requests that arrive at random at ``rate`` a second."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, count)).tolist()
    prefix = rng.integers(0, 1 << 20, load.prefix).tolist()
    own = rng.integers(0, 1 << 20, (count, load.own)).tolist()
    scheduler = Scheduler(
        num_blocks=machine.num_blocks(limits.block_size),
        block_size=limits.block_size,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        max_model_len=limits.max_model_len,
        free_tokens=limits.free_tokens,
    )
    registry = ShapeRegistry(limits.max_num_seqs, limits.max_num_batched_tokens)
    params = SamplingParams(max_tokens=load.output, ignore_eos=True, temperature=0)
    in_flight: deque[tuple[float, ScheduledBatch]] = deque()
    last: dict[Sequence, float] = {}
    ttfts: list[float] = []
    gaps: list[float] = []
    ends: list[float] = []
    host: list[float] = []
    now = free_at = busy = kv_peak = 0.0
    arrived = preemptions = batched = 0
    while len(ends) < count:
        while arrived < count and arrivals[arrived] <= now:
            name = str(arrived)
            prompt = prefix + own[arrived]
            seq = Sequence(name, name, 0, prompt, params, seed=0, arrival_time=arrivals[arrived])
            scheduler.add(seq)
            arrived += 1
        began = time.perf_counter()
        batch = scheduler.schedule()
        spent = time.perf_counter() - began
        preemptions += len(batch.preempted)
        if not batch.empty:
            seconds = machine.step_seconds(batch, registry)
            free_at = max(now, free_at) + seconds
            busy += seconds
            batched += len(batch.rows)
            in_flight.append((free_at, batch))
            kv_peak = max(kv_peak, scheduler.kv_cache_usage)
        if in_flight and (batch.empty or len(in_flight) == 2):
            end, oldest = in_flight.popleft()
            now = max(now, end)
            for row in oldest.rows:
                if row.samples and row.seq in last:
                    gaps.append(now - last[row.seq])
                elif row.samples:
                    ttfts.append(now - row.seq.arrival_time)
                if row.samples:
                    last[row.seq] = now
            began = time.perf_counter()
            done = scheduler.update(oldest, [TOKEN if row.samples else None for row in oldest.rows])
            host.append(spent + time.perf_counter() - began)
            for seq in done:
                del last[seq]
            ends += [now] * len(done)
        elif batch.empty:
            assert arrived < count, "work is left, but nothing runs"
            now = arrivals[arrived]
    # The middle half: neither the empty machine at the start nor the last requests, which run nearly alone.
    quarter = count // 4
    steady = (len(ends) - 2 * quarter - 1) / (ends[-1 - quarter] - ends[quarter])
    return Figures(
        chip=chip,
        load=load.name,
        rate=rate,
        requests_per_second=steady,
        output_tokens_per_second=steady * load.output,
        ttft_p50=float(np.percentile(ttfts, 50)),
        ttft_p99=float(np.percentile(ttfts, 99)),
        itl_p50=float(np.percentile(gaps, 50)),
        itl_p99=float(np.percentile(gaps, 99)),
        kv_peak=kv_peak,
        preemptions=preemptions,
        steps=len(host),
        mean_batch=batched / max(1, len(host)),
        device_busy=busy / now,
        host_us=float(np.median(host) * 1e6),
    )


def saturation(machine: Machine, load: Load, limits: Limits) -> float:
    """About the rate, in requests a second, beyond which the queue grows."""
    model = machine.model
    context = load.prefix + load.own + load.output / 2
    kv_tokens = machine.num_blocks(limits.block_size) * limits.block_size
    rows = min(limits.max_num_seqs, int(kv_tokens / context))
    rate, bandwidth = machine.chip.flops * machine.chips, machine.chip.bandwidth * machine.chips
    moved = model.weight_bytes + rows * context * model.kv_bytes_per_token
    flops = 2 * rows * (model.layer_parameters + model.hidden * model.vocab)
    step = max(moved / bandwidth, flops / rate) / machine.efficiency + machine.overhead_s
    prefill = 2 * load.own * model.layer_parameters / rate / machine.efficiency
    return 1 / (prefill + load.output * step / rows)


def print_table(console: Console, results: list[Figures]) -> None:
    table = Table(box=None, title="simulated; nothing here is a measurement")
    names = ("chips", "load", "offered/s", "done/s", "tok/s", "TTFT p50", "TTFT p99", "ITL p50", "ITL p99")
    for name in (*names, "KV peak", "preempted", "batch", "busy", "host us"):
        table.add_column(name, justify="right")
    for f in results:
        table.add_row(
            f.chip,
            f.load.split(":")[0],
            f"{f.rate:.0f}",
            f"{f.requests_per_second:.0f}",
            f"{f.output_tokens_per_second:.0f}",
            *(f"{seconds * 1e3:.1f}" for seconds in (f.ttft_p50, f.ttft_p99, f.itl_p50, f.itl_p99)),
            f"{f.kv_peak:.0%}",
            str(f.preemptions),
            f"{f.mean_batch:.0f}",
            f"{f.device_busy:.0%}",
            f"{f.host_us:.0f}",
        )
    console.print(table)


def draw(path: Path, results: list[Figures], title: str) -> None:
    """Throughput, time to first token and KV use over the offered rate; a row of panels a load."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    loads = list(dict.fromkeys(f.load for f in results))
    figure = Figure(figsize=(14, 4.2 * len(loads)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels: Any = figure.subplots(len(loads), 3, squeeze=False)
    for (done, first, memory), load in zip(panels, loads, strict=True):
        for color, chip in enumerate(dict.fromkeys(f.chip for f in results)):
            chosen = [f for f in results if f.load == load and f.chip == chip]
            rates = [f.rate for f in chosen]
            done.plot(
                rates, [f.requests_per_second for f in chosen], "o-", color=f"C{color}", ms=3, label=chip
            )
            first.plot(rates, [f.ttft_p50 * 1e3 for f in chosen], "o-", color=f"C{color}", ms=3, label=chip)
            first.plot(rates, [f.ttft_p99 * 1e3 for f in chosen], "--", color=f"C{color}")
            memory.plot(rates, [f.kv_peak * 100 for f in chosen], "o-", color=f"C{color}", ms=3, label=chip)
        rates = [f.rate for f in results if f.load == load]
        ends = [min(rates), max(rates)]
        done.plot(ends, ends, color="0.7", lw=1, zorder=0)
        done.set(xscale="log", yscale="log", ylabel="requests answered a second", title=load)
        first.set(xscale="log", yscale="log", ylabel="TTFT (ms): p50, p99 dashed")
        memory.set(xscale="log", ylabel="KV cache in use, peak (%)", ylim=(0, 105))
        for axes in (done, first, memory):
            axes.set_xlabel("requests offered a second")
            axes.grid(alpha=0.3, which="both")
        done.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--chips", nargs="+", default=list(CHIPS), choices=[*CHIPS, "none"])
    parser.add_argument("--slice", type=int, default=8, help="chips that hold one model together")
    parser.add_argument("--loads", nargs="+", default=["short", "long", "reasoning"], choices=LOADS)
    parser.add_argument("--fewer", type=int, default=1, help="a so many times smaller number of requests")
    parser.add_argument("--efficiency", type=float, default=0.6, help="fraction of the data-sheet rates")
    parser.add_argument("--overhead-ms", type=float, default=0.3, help="of every step")
    parser.add_argument("--max-num-seqs", type=int, default=512)
    parser.add_argument("--max-num-batched-tokens", type=int, default=4096)
    parser.add_argument(
        "--free-tokens", type=int, default=256, help="what long prompts leave to others; 0: none"
    )
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path, help="write every figure")
    parser.add_argument("--add", type=Path, nargs="*", default=[], help="figures written before, to show too")
    args = parser.parse_args()
    limits = Limits(args.max_num_seqs, args.max_num_batched_tokens, args.free_tokens)
    results = []
    for name in args.loads:
        load = LOADS[name]
        for chip in (chip for chip in args.chips if chip != "none"):
            machine = Machine(CHIPS[chip], args.slice, Model(), args.efficiency, args.overhead_ms / 1e3)
            bend = saturation(machine, load, limits)
            for factor in FACTORS if load.output < 1000 else FACTORS[2:]:
                count, label = load.count // args.fewer, f"{args.slice} x {chip}"
                results.append(simulate(machine, load, factor * bend, count, limits, chip=label))
            print(f"{label}, {load.name}: done", flush=True)
            if args.json:
                args.json.write_text(json.dumps([asdict(f) for f in results], indent=1))
    for path in args.add:
        results += [Figures(**figures) for figures in json.loads(path.read_text())]
    places = [load.name for load in LOADS.values()], [f"{args.slice} x {chip}" for chip in CHIPS]
    results.sort(key=lambda f: (places[0].index(f.load), places[1].index(f.chip), f.rate))
    print_table(Console(width=150), results)
    if args.plot:
        draw(args.plot, results, "Scheduler simulation, Llama-3-8B shape in bfloat16, roofline clock")
        print(f"wrote {args.plot}")


if __name__ == "__main__":
    main()
