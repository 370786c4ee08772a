"""Latency of a running server where it hurts: long prompts beside running streams, and cached prefixes.

    python -m benchmarks.latency MODEL_DIRECTORY [--streams 8] [--flags '--max-model-len 8192'] [--json FILE]

Starts ``vllm-jax serve`` and measures three things with streams of token ids:

* *long prompts*: the gaps between the tokens of running streams, alone and while prompts of 4k tokens
  arrive one after the other, with a pause of their own length between them;
* *prefix*: time to first token of a prompt of 2k tokens, new and after it has been computed once;
* *throughput*: 64 requests of 128 tokens in and 64 out, 16 at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

LONG, PREFIX = 4000, 2048


@dataclass
class Answer:
    """Times of one stream, seconds of ``time.perf_counter``."""

    start: float
    tokens: list[float] = field(default_factory=list)

    @property
    def ttft(self) -> float:
        return self.tokens[0] - self.start

    def gaps(self, since: float = 0.0) -> list[float]:
        return [b - a for a, b in zip(self.tokens, self.tokens[1:], strict=False) if a >= since]


class Client:
    """Streams completions of random token ids."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str, vocab: int):
        self._session, self._url, self._model, self._vocab = session, url, model, vocab
        self._rng = random.Random(0)

    def prompt(self, length: int) -> list[int]:
        return [self._rng.randrange(5, self._vocab) for _ in range(length)]

    async def stream(self, prompt: list[int], max_tokens: int, answer: Answer | None = None) -> Answer:
        body = {"model": self._model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        answer = answer or Answer(0.0)
        answer.start = time.perf_counter()
        request = {**body, "stream": True, "ignore_eos": True, "return_token_ids": True}
        async with self._session.post(f"{self._url}/v1/completions", json=request) as response:
            if response.status != 200:
                raise SystemExit(f"{response.status}: {await response.text()}")
            async for line in response.content:
                if line.startswith(b"data: {"):
                    now = time.perf_counter()
                    count = len(json.loads(line[6:])["choices"][0].get("token_ids") or [])
                    answer.tokens += [now] * count
        assert len(answer.tokens) == max_tokens, (len(answer.tokens), max_tokens)
        return answer


def quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(int(q * len(values)), len(values) - 1)]


async def long_prompts(client: Client, streams: int, tokens: int) -> dict[str, float]:
    answers = [Answer(0.0) for _ in range(streams)]
    running = [asyncio.create_task(client.stream(client.prompt(64), tokens, a)) for a in answers]
    while not all(answer.tokens for answer in answers):
        await asyncio.sleep(0.05)
    await asyncio.sleep(3.0)
    arrival = time.perf_counter()
    ttft = []
    while not any(task.done() for task in running):
        began = time.perf_counter()
        ttft.append((await client.stream(client.prompt(LONG), 1)).ttft)
        await asyncio.sleep(time.perf_counter() - began)
    end = min(answer.tokens[-1] for answer in answers)
    await asyncio.gather(*running)
    alone = [gap for a in answers for gap, at in zip(a.gaps(), a.tokens, strict=False) if at < arrival]
    mixed = [gap for a in answers for gap, at in zip(a.gaps(), a.tokens, strict=False) if arrival <= at < end]
    return {
        "ITL alone, median, ms": 1e3 * statistics.median(alone),
        "ITL alone, p99, ms": 1e3 * quantile(alone, 0.99),
        "ITL with long prompts, median, ms": 1e3 * statistics.median(mixed),
        "ITL with long prompts, p99, ms": 1e3 * quantile(mixed, 0.99),
        "ITL with long prompts, p99 / median": quantile(mixed, 0.99) / statistics.median(mixed),
        "ITL with long prompts, p99 / median alone": quantile(mixed, 0.99) / statistics.median(alone),
        "TTFT of long prompts, median, s": statistics.median(ttft),
        "long prompts": len(ttft),
    }


async def prefix(client: Client) -> dict[str, float]:
    fresh, cached = [], []
    for _ in range(4):
        shared = client.prompt(PREFIX)
        fresh.append((await client.stream(shared + client.prompt(8), 1)).ttft)
        cached.append((await client.stream(shared + client.prompt(8), 1)).ttft)
    return {
        "TTFT of 2k new tokens, ms": 1e3 * statistics.median(fresh),
        "TTFT of 2k cached tokens, ms": 1e3 * statistics.median(cached),
        "cached / new": statistics.median(cached) / statistics.median(fresh),
    }


async def throughput(client: Client, count: int = 64, at_once: int = 16) -> dict[str, float]:
    gate = asyncio.Semaphore(at_once)

    async def one() -> Answer:
        async with gate:
            return await client.stream(client.prompt(128), 64)

    began = time.perf_counter()
    answers = await asyncio.gather(*(one() for _ in range(count)))
    seconds = time.perf_counter() - began
    return {
        "output tok/s": count * 64 / seconds,
        "TTFT p50, s": statistics.median(a.ttft for a in answers),
        "ITL p50, ms": 1e3 * statistics.median(gap for a in answers for gap in a.gaps()),
    }


async def measure(url: str, args: argparse.Namespace) -> dict[str, Any]:
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(600), connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        async with session.get(f"{url}/v1/models") as response:
            model = (await response.json())["data"][0]["id"]
        client = Client(session, url, model, args.vocab)
        await client.stream(client.prompt(20), 4)
        found: dict[str, Any] = {}
        if "throughput" in args.only:
            found["throughput"] = await throughput(client)
        if "prefix" in args.only:
            found["prefix"] = await prefix(client)
        if "long" in args.only:
            found["long prompts"] = await long_prompts(client, args.streams, args.tokens)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--streams", type=int, default=8, help="running streams beside the long prompts")
    parser.add_argument("--tokens", type=int, default=800, help="tokens of each of them")
    parser.add_argument("--vocab", type=int, default=8000, help="token ids are drawn below this")
    parser.add_argument("--flags", default="", help="flags for vllm-jax serve")
    parser.add_argument("--only", nargs="+", default=["throughput", "prefix", "long"])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "api.cli", "serve", args.model, "--port", str(port)]
    command += ["--disable-uvicorn-access-log", *shlex.split(args.flags)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with socket.socket() as probe:
            while probe.connect_ex(("127.0.0.1", port)) and server.poll() is None:
                time.sleep(0.1)
        found = asyncio.run(measure(f"http://127.0.0.1:{port}", args))
        status = Path(f"/proc/{server.pid}/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        found["peak memory, MiB"] = int(peak.split()[1]) / 1024
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
