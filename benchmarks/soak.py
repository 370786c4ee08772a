"""A soak with faults: a real server, clients that misbehave, and a look at what is left behind.

    python benchmarks/soak.py --seconds 300
    python benchmarks/soak.py --url http://localhost:8000 --pid 4711     # a server that runs already

Clients come and go: whole answers, streams, readers that leave in the middle or read slowly, floods, batches
that are given up, bytes that are no HTTP, heads that never end, bodies that are no JSON. Then they all leave,
and it is checked that

- every request that was accepted has been answered in full, or has failed with an error that says so;
- nothing runs or waits, no KV block is held, and no program was compiled;
- threads, sockets and memory of the process are where they were after the first round;
- SIGTERM under load ends every stream with its answer or an error, and the process with 0.

It exits with 1 if one of these does not hold. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
COMPILATIONS = "vllm:compilations_total"
MEMORY_SLACK_MB = 64
"""Growth over the soak that is not called a leak: allocators keep some of what they had."""


@dataclass
class Target:
    """The server under test, and what became of the requests."""

    url: str
    pid: int
    model: str
    outcomes: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        return url.host, url.port or 80

    def state(self) -> dict[str, float]:
        """Threads, sockets, open files and memory (MB) of the process."""
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines()
        )
        sockets, files = 0, list(Path(f"/proc/{self.pid}/fd").iterdir())
        for entry in files:
            try:
                sockets += os.readlink(entry).startswith("socket:")
            except OSError:
                continue
        return {
            "threads": int(status["Threads"]),
            "sockets": sockets,
            "open files": len(files),
            "memory_mb": int(status["VmRSS"].split()[0]) / 1024,
        }


def chat(target: Target, rng: random.Random, **more: Any) -> dict[str, Any]:
    words = " ".join(
        rng.choices(["the", "dog", "sees", "my", "red", "house", "and", "you"], k=rng.randint(1, 40))
    )
    messages = [{"role": "user", "content": words}]
    return {
        "model": target.model,
        "messages": messages,
        "max_tokens": rng.randint(1, 60),
        "ignore_eos": True,
        **more,
    }


async def whole(target: Target, client: httpx.AsyncClient, rng: random.Random) -> str:
    """An answer that does not stream."""
    body = chat(target, rng, n=rng.choice([1, 1, 2, 4]), temperature=rng.choice([0.5, 1.0]))
    answer = await client.post("/v1/chat/completions", json=body)
    if answer.status_code != 200:
        return refusal(answer)
    choices = answer.json()["choices"]
    assert len(choices) == body["n"] and all(c["finish_reason"] == "length" for c in choices), answer.text
    return "answered"


async def stream(target: Target, client: httpx.AsyncClient, rng: random.Random, *, pause_s: float = 0) -> str:
    """A stream, read to its end, perhaps slowly."""
    body = chat(target, rng, stream=True, stream_options={"include_usage": True}, temperature=0)
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            await answer.aread()
            return refusal(answer)
        last, usage = "", None
        async for line in answer.aiter_lines():
            if pause_s:
                await asyncio.sleep(pause_s)
            if not line.startswith("data: "):
                continue
            last = line
            if line != "data: [DONE]":
                event = json.loads(line[6:])
                if "error" in event:
                    return f"failed explicitly: {event['error']['code']}"
                usage = event.get("usage") or usage
        assert last == "data: [DONE]", f"a stream ended with {last!r}"
        assert usage and usage["completion_tokens"] == body["max_tokens"], usage
        return "answered"


async def slow_reader(target: Target, client: httpx.AsyncClient, rng: random.Random) -> str:
    return await stream(target, client, rng, pause_s=0.05)


async def leave(target: Target, client: httpx.AsyncClient, rng: random.Random) -> str:
    """Goes away in the middle of a stream."""
    body = chat(target, rng, stream=True, max_tokens=200)
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            await answer.aread()
            return refusal(answer)
        left = rng.randint(0, 6)
        async for _ in answer.aiter_lines():
            left -= 1
            if left < 0:
                break
    return "left"


async def give_up(target: Target, client: httpx.AsyncClient, rng: random.Random) -> str:
    """A batch of prompts, cancelled while it is computed."""
    body = {"model": target.model, "prompt": ["hello"] * 24, "max_tokens": 100, "ignore_eos": True}
    try:
        answer = await asyncio.wait_for(client.post("/v1/completions", json=body), rng.uniform(0.01, 0.5))
    except TimeoutError:
        return "gave up"
    return "answered" if answer.status_code == 200 else refusal(answer)


async def flood(target: Target, client: httpx.AsyncClient, rng: random.Random) -> str:
    """Many at once; some may be told to come again later."""
    answers = await asyncio.gather(*(whole(target, client, rng) for _ in range(40)))
    target.outcomes.update(answers)
    return "flood"


async def bad_body(target: Target, client: httpx.AsyncClient, rng: random.Random) -> str:
    """Bodies that cannot be served."""
    content = rng.choice(
        [
            b"",
            b"{",
            b"[]",
            b'{"messages": 3}',
            b"\xff\xfe",
            b"[" * 5000,
            b'{"messages": [], "temperature": NaN}',
        ]
    )
    path = rng.choice(["/v1/chat/completions", "/v1/completions", "/tokenize"])
    answer = await client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    return refusal(answer)


async def no_http(target: Target, client: httpx.AsyncClient, rng: random.Random) -> str:
    """Bytes that are no request, heads that never end, bodies that never come."""
    reader, writer = await asyncio.open_connection(*target.address)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    writer.write(
        rng.choice(
            [
                rng.randbytes(200),
                b"GET / HTTP/9.9\r\n\r\n",
                head,
                head + b"Content-Length: 1000\r\n\r\n{",
                head + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
                head + b"Content-Length: -5\r\n\r\n",
            ]
        )
    )
    try:
        await writer.drain()
        await asyncio.wait_for(reader.read(1000), rng.uniform(0.05, 0.5))
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return "no request"


def refusal(answer: httpx.Response) -> str:
    """What a refusal is counted as; it has to say why."""
    assert answer.json()["error"]["message"], answer.text
    if answer.status_code == 503:
        assert int(answer.headers["retry-after"]) > 0
    assert answer.status_code in (400, 503), answer.text
    return f"refused {answer.status_code}"


Client = Callable[[Target, httpx.AsyncClient, random.Random], Awaitable[str]]
CLIENTS: dict[Client, int] = {
    whole: 6, stream: 6, slow_reader: 1, leave: 4, give_up: 2, flood: 1, bad_body: 2, no_http: 2,
}  # fmt: skip
"""Who comes, and how often beside the others."""


async def round_of(target: Target, seconds: float, workers: int, seed: int) -> None:
    """Lets ``workers`` clients at a time come and go for so long."""
    deadline = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=8)

    async def work(number: int) -> None:
        rng = random.Random(f"{seed}/{number}")
        async with httpx.AsyncClient(base_url=target.url, timeout=120, limits=limits) as client:
            while time.monotonic() < deadline:
                [visit] = rng.choices(list(CLIENTS), list(CLIENTS.values()))
                try:
                    target.outcomes[await visit(target, client, rng)] += 1
                except Exception as error:
                    target.lost.append(f"{visit.__name__}: {type(error).__name__}: {error}"[:300])

    await asyncio.gather(*(work(number) for number in range(workers)))


def metrics(target: Target) -> dict[str, float]:
    found = {}
    for line in httpx.get(target.url + "/metrics").text.splitlines():
        if line.startswith("vllm:"):
            found[line.partition("{")[0]] = float(line.rsplit(" ", 1)[1])
    return found


def settle(target: Target, timeout_s: float = 60) -> dict[str, float]:
    """Waits until nothing runs and the connections are closed; the process's state then."""
    deadline = time.monotonic() + timeout_s
    while any(values := [metrics(target)[name] for name in GAUGES]):
        assert time.monotonic() < deadline, f"still busy: {dict(zip(GAUGES, values, strict=True))}"
        time.sleep(0.2)
    time.sleep(2)  # the connections of clients that have gone are closed a moment later
    return target.state()


async def terminate_under_load(target: Target, process: subprocess.Popen[bytes]) -> Counter[str]:
    """SIGTERM while streams run; what became of them."""
    async with httpx.AsyncClient(base_url=target.url, timeout=120) as client:
        tasks = [asyncio.ensure_future(stream(target, client, random.Random(i))) for i in range(40)]
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        results = await asyncio.gather(*tasks, return_exceptions=True)
    outcomes: Counter[str] = Counter()
    for result in results:
        if isinstance(result, httpx.ConnectError):  # came after the door was closed: never accepted
            outcomes["not accepted"] += 1
        elif isinstance(result, BaseException):
            outcomes["lost"] += 1
            target.lost.append(f"at the end: {type(result).__name__}: {result}"[:300])
        else:
            outcomes[result] += 1
    return outcomes


def start(flags: list[str]) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "api.cli", "serve", "--port", str(port), "--disable-uvicorn-access-log"]
    process = subprocess.Popen([*command, "--max-num-queued-reqs", "64", *flags], stdout=subprocess.DEVNULL)
    url = f"http://localhost:{port}"
    while True:
        if process.poll() is not None:
            sys.exit("the server did not start")
        try:
            httpx.get(url + "/health").raise_for_status()
            return process, url
        except httpx.HTTPError:
            time.sleep(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long the clients come and go")
    parser.add_argument("--workers", type=int, default=24, help="clients at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--url", help="a server that runs already; it is not terminated")
    parser.add_argument("--pid", type=int, help="its process")
    arguments, flags = parser.parse_known_args()
    process = None
    if arguments.url is None:
        process, url = start(flags)
        pid = process.pid
    else:
        url, pid = arguments.url, arguments.pid or parser.error("--url needs --pid")
    model = httpx.get(url + "/v1/models").json()["data"][0]["id"]
    target = Target(url, pid, model)

    # The first round fills pools and caches; what counts is that the second one adds nothing.
    asyncio.run(round_of(target, max(5.0, arguments.seconds / 4), arguments.workers, arguments.seed))
    before, programs = settle(target), metrics(target)[COMPILATIONS]
    asyncio.run(round_of(target, arguments.seconds, arguments.workers, arguments.seed + 1))
    after = settle(target)
    compiled = metrics(target)[COMPILATIONS] - programs

    wrong = list(target.lost)
    if compiled:
        wrong.append(f"{compiled:.0f} programs were compiled under load")
    for name, slack in {"threads": 0, "sockets": 0, "memory_mb": MEMORY_SLACK_MB}.items():
        if after[name] > before[name] + slack:
            wrong.append(f"{name} grew from {before[name]:.0f} to {after[name]:.0f}")
    print(f"outcomes: {dict(target.outcomes)}")
    print(f"process after the first round: {before}\nprocess at the end:             {after}")
    if process is not None:
        known = len(target.lost)
        print(f"SIGTERM under load: {dict(asyncio.run(terminate_under_load(target, process)))}")
        wrong += target.lost[known:]
        if code := process.wait(60):
            wrong.append(f"the server exited with {code}")
    for line in wrong[:20]:
        print(f"WRONG: {line}")
    print("failed" if wrong else "all is back where it was")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
