"""Every server that is installed here, under the same loads, in turn; ratios and roofline fractions.

    python benchmarks/compare.py --model CHECKPOINT --gguf CHECKPOINT.gguf \\
        --llama-server build/bin/llama-server --vllm venv/bin/vllm --vllm-preload libtcmalloc.so:libiomp5.so

All servers are started, warmed up and kept; then each load goes to one after the other, again and again, so
that whatever else the machine does meets all of them alike. The texts are new each time and the same for all.
Every answer's number of tokens is checked. Servers that wait must not compute: what they use is shown.

Fair: one checkpoint in one dtype, every server with the settings that its makers recommend for a CPU (threads
bound, its allocator), greedy, EOS ignored, prefix caching as each does it by default.

Needs the "bench" extra. What is not on the PATH and not named is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import datetime
import itertools
import json
import math
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from safetensors import safe_open

from api.bench.client import Target, send_all
from api.bench.statistics import Summary, summarise
from api.bench.texts import TextMaker
from api.bench.workload import ArrivalConfig, DatasetConfig, WorkItem, make_workload
from vllm_jax import __version__
from vllm_jax.tokenizer.loader import load_tokenizer

HERE = Path(__file__).parent
START_TIMEOUT_S = 300.0
REQUEST_TIMEOUT_S = 60.0
"""A server that spins on all cores may all but stop when one is taken from it; the comparison goes on."""
MOST_FOREIGN_CORES = 0.2
"""A turn beside which other processes used more than this is repeated, and the least disturbed counts."""


@dataclass(frozen=True)
class Load:
    """One kind of load. ``concurrency`` requests are in flight."""

    title: str
    dataset: DatasetConfig
    concurrency: int

    def items(self, texts: TextMaker, seed: int) -> list[WorkItem]:
        data = dataclasses.replace(self.dataset, seed=seed)
        return make_workload(data, ArrivalConfig(max_concurrency=self.concurrency), texts)


LOADS = {
    "single": Load(
        "one stream, 128 in, 128 out",
        DatasetConfig(num_prompts=1, random_input_len=128, random_output_len=128),
        1,
    ),
    "concurrent": Load(
        "64 requests, 16 at a time, 128 in, 64 out",
        DatasetConfig(num_prompts=64, random_input_len=128, random_output_len=64),
        16,
    ),
    "shared": Load(
        "32 requests, 16 at a time, 512 shared + 16 in, 16 out",
        DatasetConfig(
            dataset_name="prefix_repetition",
            num_prompts=32,
            prefix_repetition_num_prefixes=1,
            prefix_repetition_prefix_len=512,
            prefix_repetition_suffix_len=16,
            prefix_repetition_output_len=16,
        ),
        16,
    ),
}


@dataclass
class Peer:
    """A server: how it is started, and what was measured of it."""

    name: str
    command: list[str]
    version: str
    env: dict[str, str] = field(default_factory=dict)
    extra_body: dict[str, Any] = field(default_factory=dict)
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    ready_s: float = 0.0
    first_token_s: float = 0.0
    peak_rss: int = 0
    model: str = ""
    fixed_text: str = ""
    runs: dict[str, list[Summary]] = field(default_factory=dict)
    error: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def target(self) -> Target:
        return Target(self.url, self.model, extra_body=self.extra_body, timeout_s=REQUEST_TIMEOUT_S)

    def tree(self) -> list[psutil.Process]:
        """The server's process and all below it."""
        if self.process is None:
            return []
        try:
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.Error:
            return []

    def cpu_seconds(self) -> float:
        total = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def note_peak(self) -> None:
        """Sums the largest resident size that each process of the tree has ever had."""
        total = 0
        for process in self.tree():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        total += int(line.split()[1]) * 1024
        self.peak_rss = max(self.peak_rss, total)

    def start(self, log_dir: Path) -> None:
        """Starts and times: process start, answer of /health (or /v1/models), first token."""
        self.port = free_port()
        command = [word.replace("{port}", str(self.port)) for word in self.command]
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", **self.env}
        with (log_dir / f"{self.name}.log").open("w") as log:
            began = time.perf_counter()
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
        with httpx.Client(timeout=60) as client:
            while True:
                if self.process.poll() is not None or time.perf_counter() - began > START_TIMEOUT_S:
                    raise RuntimeError(f"{self.name} did not start; see {log.name}")
                with contextlib.suppress(httpx.TransportError):
                    if client.get(self.url + "/health").status_code == 200:
                        break
                time.sleep(0.05)
            self.ready_s = time.perf_counter() - began
            if not self.model:
                self.model = client.get(self.url + "/v1/models").json()["data"][0]["id"]
            body = {"model": self.model, "prompt": "one two three", "max_tokens": 1}
            client.post(self.url + "/v1/completions", json=body).raise_for_status()
            self.first_token_s = time.perf_counter() - began

    def stop(self) -> None:
        """Ends every process of the tree."""
        self.note_peak()
        tree = self.tree()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in tree:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(number)
            _, tree = psutil.wait_procs(tree, timeout=5)
        self.process = None

    def median(self, load: str, figure: str) -> float:
        """The median of a figure over the repeats."""
        return statistics.median(read_figure(run, figure) for run in self.runs[load])

    def spread(self, load: str, figure: str) -> str:
        """Smallest and largest."""
        values = [read_figure(run, figure) for run in self.runs[load]]
        return f"{min(values):.0f}-{max(values):.0f}"


def read_figure(run: Summary, figure: str) -> float:
    """``decode`` (tokens a second after the first one), ``output``, or ``ttft50``, ``itl95``... in ms."""
    if figure == "decode":
        return 1e3 / run.metrics["tpot"].median if run.completed else 0.0
    if figure == "output":
        return run.output_throughput
    return run.metrics[figure[:-2]].percentiles[float(figure[-2:])]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def weight_bytes(model: Path) -> tuple[int, int]:
    """Bytes of all weights, and those that a decode step reads (all but an input embedding of its own)."""
    sizes: dict[str, int] = {}
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, "np") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                piece = tensors.get_slice(name)
                sizes[name] = math.prod(piece.get_shape()) * (4 if piece.get_dtype() == "F32" else 2)
    total = sum(sizes.values())
    if not any(name.endswith("lm_head.weight") for name in sizes):  # the embedding is the head, too
        return total, total
    inputs = ("embed_tokens.weight", "wte.weight")
    return total, total - sum(size for name, size in sizes.items() if name.endswith(inputs))


def wait_until_idle(peers: Sequence[Peer], limit_s: float = 10.0) -> None:
    """Waits until no server computes: some spin for a while after their last request."""
    deadline = time.perf_counter() + limit_s
    while time.perf_counter() < deadline:
        began, used = time.perf_counter(), sum(peer.cpu_seconds() for peer in peers)
        time.sleep(0.4)
        used = sum(peer.cpu_seconds() for peer in peers) - used
        if used < 0.05 * (time.perf_counter() - began):
            return


def version_of(*command: str) -> str:
    """What a program says of its version."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return "?"
    named = re.findall(r"^(?:version: )?(\d+\.\d.*)$", done.stderr + done.stdout, re.MULTILINE)
    return named[-1].strip() if named else "?"


def find(given: str | None, name: str) -> str | None:
    """A program by the path that was given, or on the PATH. ``"none"`` leaves it out."""
    return None if given == "none" else given or shutil.which(name)


def make_peers(args: argparse.Namespace, dtype: str) -> list[Peer]:
    model, cores = str(args.model), len(os.sched_getaffinity(0))
    ours = [
        sys.executable,
        "-m",
        "api.cli",
        "serve",
        model,
        "--port={port}",
        f"--max-model-len={args.max_model_len}",
    ]
    ours += args.ours_flags.split()
    peers = [Peer("vllm-jax", ours, f"{__version__} ({commit()})")]
    if args.baseline:
        env = {"PYTHONPATH": str(args.baseline.resolve())}
        peers.append(Peer("vllm-jax-baseline", ours, commit(args.baseline), env))
    llama = find(args.llama_server, "llama-server")
    if llama and args.gguf:
        slots, context = args.slots, args.slots * args.max_model_len
        command = [llama, "-m", str(args.gguf), "--port", "{port}", "-np", str(slots), "-c", str(context)]
        peers.append(Peer("llama.cpp", [*command, "-t", str(cores)], version_of(llama, "--version")))
    vllm = find(args.vllm, "vllm")
    if vllm:
        env = {"VLLM_CPU_OMP_THREADS_BIND": f"0-{cores - 1}", "VLLM_CPU_KVCACHE_SPACE": "1"}
        env["PATH"] = f"{Path(vllm).parent}:{os.environ['PATH']}"
        env["PYTHONPATH"] = ""
        if args.vllm_preload:
            env["LD_PRELOAD"] = args.vllm_preload
        command = [vllm, "serve", model, "--port", "{port}", "--dtype", dtype]
        command += ["--max-model-len", str(args.max_model_len), "--max-num-seqs", "32"]
        peers.append(Peer("vLLM CPU", command, version_of(vllm, "--version"), env))
    if args.transformers:
        command = [args.transformers, "serve", model, "--continuous-batching", "--port", "{port}"]
        extra = {"ignore_eos": None}  # unknown to it; the models of the recipe never choose EOS
        peers.append(
            Peer(
                "transformers",
                command,
                version_of(args.transformers, "version"),
                extra_body=extra,
                model=model,  # its /v1/models lists what is in the hub's cache
            )
        )
    return [peer for peer in peers if not args.only or peer.name in args.only]


def commit(where: Path = HERE) -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=where, capture_output=True, text=True
    )
    return done.stdout.strip() or "?"


def busy_seconds() -> float:
    """Core-seconds that all processes of the machine have used."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait


@dataclass
class Turn:
    """One load against one peer."""

    peer: str
    load: str
    summary: Summary
    server_cores: float
    waiting_cores: float
    foreign_cores: float


def measure(peer: Peer, peers: Sequence[Peer], load: str, items: Sequence[WorkItem]) -> Turn:
    """Runs a load once."""
    others = [other for other in peers if other is not peer]
    machine, server, waiting = busy_seconds(), peer.cpu_seconds(), sum(o.cpu_seconds() for o in others)
    client = time.process_time()
    done, seconds = asyncio.run(send_all(peer.target, items, max_concurrency=LOADS[load].concurrency))
    client = time.process_time() - client
    server = peer.cpu_seconds() - server
    waiting = sum(o.cpu_seconds() for o in others) - waiting
    foreign = busy_seconds() - machine - server - waiting - client
    summary = summarise(done, seconds, exact_prompts=True)
    peer.note_peak()
    foreign = max(0.0, foreign) / seconds
    turn = Turn(peer.name, load, summary, server / seconds, waiting / seconds, foreign)
    print(
        f"{peer.name:>18} {load:<11} decode {read_figure(summary, 'decode'):7.1f} tok/s  "
        f"output {summary.output_throughput:7.1f} tok/s  TTFT {read_figure(summary, 'ttft50'):7.1f} ms  "
        f"ITL {read_figure(summary, 'itl50'):6.1f}/{read_figure(summary, 'itl95'):6.1f} ms  "
        f"cores {turn.server_cores:.2f} waiting {turn.waiting_cores:.2f} foreign {turn.foreign_cores:.2f}  "
        f"{'; '.join(summary.counts.complaints + summary.errors)}",
        flush=True,
    )
    return turn


@contextlib.contextmanager
def running(peers: list[Peer], log_dir: Path) -> Iterator[list[Peer]]:
    """The peers that start; ended afterwards, whatever happens."""
    try:
        for peer in peers:
            try:
                peer.start(log_dir)
                print(f"{peer.name:>18} ready {peer.ready_s:.1f} s, first token {peer.first_token_s:.1f} s")
            except (RuntimeError, httpx.HTTPError, KeyError, IndexError) as error:
                peer.error = str(error)
                print(f"{peer.name:>18} FAILED: {error}", flush=True)
                peer.stop()
        yield [peer for peer in peers if peer.error is None]
    finally:
        for peer in peers:
            peer.stop()


def bounds(ceilings: dict[str, float], dtype: str, read: int) -> dict[str, float]:
    """Most tokens a second that the loads' weights allow: read once a step, and multiplied once a token.

    Attention, KV pages and the host count as nothing, so that no server can come to 100 %.
    """
    bandwidth = ceilings["read_gbs"] * 1e9
    rate = ceilings["f32_gflops" if dtype == "float32" else "bf16_gflops"] * 1e9
    flops = 2 * read / (4 if dtype == "float32" else 2)
    found = {"single": bandwidth / read}
    for name, prefill, waves, rows in (("concurrent", 64 * 128, 4, 16), ("shared", 512 + 32 * 16, 2, 16)):
        output = {"concurrent": 64, "shared": 16}[name]
        steps = waves * output
        seconds = prefill * flops / rate + steps * max(read / bandwidth, rows * flops / rate)
        found[name] = steps * rows / seconds
    return found


def ratio(ours: Peer, peer: Peer, load: str, figure: str) -> str:
    theirs = peer.median(load, figure)
    return f"{ours.median(load, figure) / theirs:.2f}x" if theirs else "failed"


def markdown(
    args: argparse.Namespace,
    peers: list[Peer],
    ceilings: dict[str, float],
    dtype: str,
    sizes: tuple[int, int],
    turns: Sequence[Turn],
) -> str:
    """The result as a table, with what is needed to repeat it."""
    most = bounds(ceilings, dtype, sizes[1])
    ours = peers[0]
    rows = [
        "| server | one stream, tok/s | of roofline | 16 concurrent, output tok/s | of roofline | TTFT p50 "
        "| ITL p50 / p95 | shared prefix, output tok/s | start to first token | peak RSS |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for peer in peers:
        single, many = peer.median("single", "decode"), peer.median("concurrent", "output")
        cells = [
            peer.name,
            f"{single:.0f} ({peer.spread('single', 'decode')})",
            f"{single / most['single']:.0%}",
            f"{many:.0f} ({peer.spread('concurrent', 'output')})",
            f"{many / most['concurrent']:.0%}",
            f"{peer.median('concurrent', 'ttft50'):.0f} ms",
            f"{peer.median('concurrent', 'itl50'):.1f} / {peer.median('concurrent', 'itl95'):.1f} ms",
            f"{peer.median('shared', 'output'):.0f} ({peer.spread('shared', 'output')})",
            f"{peer.first_token_s:.1f} s",
            f"{peer.peak_rss / 2**30:.2f} GiB",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    rows.append("")
    for peer in peers[1:]:
        ratios = [
            f"{title} {ratio(ours, peer, load, figure)}"
            for load, figure, title in (
                ("single", "decode", "one stream"),
                ("concurrent", "output", "16 concurrent"),
                ("shared", "output", "shared prefix"),
            )
        ]
        rows.append(f"{ours.name} / {peer.name}: {', '.join(ratios)}.")
    versions = ", ".join(f"{peer.name} {peer.version}" for peer in peers)
    date = datetime.date.today().isoformat()
    foreign = statistics.median(turn.foreign_cores for turn in turns)
    repeats = min(map(len, ours.runs.values()))
    rows += [
        "",
        f"{args.model.name}, {dtype}, {date}: median of {repeats} (smallest - largest), in turn; "
        f"other processes used {foreign:.2f} cores at the median turn. "
        f"Weights {sizes[0] / 1e6:.0f} MB, {sizes[1] / 1e6:.0f} MB read a token; this machine reads "
        f"{ceilings['read_gbs']:.0f} GB/s and multiplies at {ceilings['f32_gflops']:.0f} (f32) and "
        f"{ceilings['bf16_gflops']:.0f} (bf16) GFLOP/s on {ceilings['cores']:.0f} cores. {versions}.",
        "",
        f"    {' '.join(['python', 'benchmarks/compare.py', *sys.argv[1:]])}",
        "",
    ]
    return "\n".join(rows)


def agreement(text: str, other: str) -> float:
    """The fraction of ``text`` up to the first character in which ``other`` differs."""
    same = sum(
        1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False))
    )
    return same / max(1, len(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint directory")
    parser.add_argument("--gguf", type=Path, help="the same weights for llama.cpp")
    parser.add_argument("--llama-server", help="program; by default from the PATH, 'none' leaves it out")
    parser.add_argument("--vllm", help="program; by default from the PATH, 'none' leaves it out")
    parser.add_argument("--vllm-preload", help="LD_PRELOAD for vLLM: tcmalloc and Intel's OpenMP")
    parser.add_argument("--transformers", help="program `transformers`, for its serve command")
    parser.add_argument("--baseline", type=Path, help="another checkout of vllm-jax to compare with")
    parser.add_argument("--only", nargs="+", help="names of the peers to take")
    parser.add_argument("--ours-flags", default="", help="further flags for vllm-jax serve, in one word")
    parser.add_argument("--loads", nargs="+", default=list(LOADS), choices=LOADS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tries", type=int, default=3, help="of a turn, where others disturb it")
    parser.add_argument("--slots", type=int, default=16, help="llama.cpp's parallel slots")
    parser.add_argument("--max-model-len", type=int, default=1024, help="longest sequence, for every server")
    parser.add_argument("--seed", type=int, default=None, help="of the texts; by default new ones")
    parser.add_argument("--logs", type=Path, default=Path("."), help="directory for the servers' logs")
    parser.add_argument("--markdown", type=Path, help="append the table to this file")
    parser.add_argument("--json", type=Path, help="write every figure")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # the servers end, too
    seed = int.from_bytes(os.urandom(3), "big") if args.seed is None else args.seed
    config = json.loads((args.model / "config.json").read_text())
    dtype = config.get("torch_dtype") or config.get("dtype") or "float32"
    texts = TextMaker(load_tokenizer(args.model))
    sizes = weight_bytes(args.model)
    ceilings = json.loads(subprocess.check_output([sys.executable, str(HERE / "ceilings.py")], text=True))
    print("ceilings:", ceilings, flush=True)
    turns: list[Turn] = []
    with running(make_peers(args, dtype), args.logs) as peers:
        fixed = make_workload(
            DatasetConfig(num_prompts=1, random_input_len=32, random_output_len=24), ArrivalConfig(), texts
        )
        for peer in peers:
            [answer], _ = asyncio.run(send_all(peer.target, fixed))
            peer.fixed_text = answer.text
            for load in args.loads:
                items = LOADS[load].items(texts, seed)[:16]
                asyncio.run(send_all(peer.target, items, max_concurrency=16))
            print(f"{peer.name:>18} is warm", flush=True)
        for peer in peers[1:]:
            share = agreement(peers[0].fixed_text, peer.fixed_text)
            print(f"{peer.name:>18} greedy text agrees with {peers[0].name} for {share:.0%} of its length")
        seeds = itertools.count(seed + 1)
        try:
            for repeat in range(1, args.repeats + 1):
                for load in args.loads:
                    items = LOADS[load].items(texts, next(seeds))
                    turn = repeat % len(peers)
                    for peer in peers[turn:] + peers[:turn]:
                        tries: list[Turn] = []
                        while len(tries) < args.tries:
                            wait_until_idle(peers)
                            tries.append(measure(peer, peers, load, items))
                            if tries[-1].foreign_cores < MOST_FOREIGN_CORES:
                                break
                            items = LOADS[load].items(texts, next(seeds))
                        turns.append(min(tries, key=lambda one: one.foreign_cores))
                        peer.runs.setdefault(load, []).append(turns[-1].summary)
        finally:  # whoever stops it early gets what has been measured
            if all(load in peer.runs for load in args.loads for peer in peers):
                report(args, peers, ceilings, dtype, sizes, seed, turns)


def report(
    args: argparse.Namespace,
    peers: list[Peer],
    ceilings: dict[str, float],
    dtype: str,
    sizes: tuple[int, int],
    seed: int,
    turns: list[Turn],
) -> None:
    """Writes what was asked for, and prints the table."""
    if args.json:
        content = {
            "ceilings": ceilings,
            "seed": seed,
            "peers": [
                {"name": p.name, "version": p.version, "ready_s": p.ready_s, "first_token_s": p.first_token_s}
                | {"peak_rss": p.peak_rss, "command": p.command, "env": p.env}
                for p in peers
            ],
            "turns": [dataclasses.asdict(turn) | {"summary": turn.summary.as_json()} for turn in turns],
        }
        args.json.write_text(json.dumps(content, indent=1))
    if set(args.loads) == set(LOADS):
        table = markdown(args, peers, ceilings, dtype, sizes, turns)
        print("\n" + table)
        if args.markdown:
            with args.markdown.open("a") as file:
                file.write("\n" + table)


if __name__ == "__main__":
    main()
