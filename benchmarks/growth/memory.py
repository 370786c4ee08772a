"""Memory, threads and open files of a server over the requests that it has served.

Clients with a few connections send short requests of all kinds, each with a prompt that nobody has sent
before: whole and streamed, chats and completions, several choices, stop strings, logprobs, JSON by schemas
that come back and by new ones, tools, stored responses, Anthropic's messages, clients that leave, and
requests that are refused. Every answer is checked for its status and its end.

The server is the demo model's, started for it, or one that runs already (--url, --pid, and --served for what
it has served before: a long run in pieces). Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx

from benchmarks.growth.curves import Curve, write
from benchmarks.soak import Target, start

MEMORY, PROCESS = "memory", "process"
Body = dict[str, Any]


@dataclass
class Client:
    """One connection's worth of requests; ``tag`` is in every prompt, so that no two are alike."""

    session: aiohttp.ClientSession
    model: str
    rng: random.Random
    tag: str = ""

    def text(self) -> str:
        """New words; most are few, a few are near the longest."""
        count = self.rng.choice((1, 4, 8, 16, 32)) if self.rng.random() < 0.97 else 180
        letters = "abcdefghijklmnopqrstuvwxyz"
        words = ["".join(self.rng.choices(letters, k=self.rng.randint(1, 8))) for _ in range(count)]
        return " ".join([self.tag, *words])

    def chat(self, **more: Any) -> Body:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": self.text()}],
            "max_tokens": self.rng.randint(1, 4),
            "temperature": self.rng.choice((0, 0.7, 1)),
            **more,
        }

    def completion(self, **more: Any) -> Body:
        body = self.chat(prompt=self.text(), **more)
        del body["messages"]
        return body

    async def post(self, path: str, body: Body, expect: int = 200) -> Any:
        """The answer's JSON; fails on another status."""
        async with self.session.post(path, json=body) as answer:
            content = await answer.read()
            if answer.status != expect:
                raise AssertionError(f"{path}: {answer.status} {content[:300]!r}")
            return json.loads(content)

    async def stream(self, path: str, body: Body) -> None:
        """Reads a stream to its end."""
        last = b""
        async with self.session.post(path, json={**body, "stream": True}) as answer:
            if answer.status != 200:
                raise AssertionError(f"{path}: {answer.status} {(await answer.read())[:300]!r}")
            async for line in answer.content:
                last = line.strip() or last
        if last != b"data: [DONE]":
            raise AssertionError(f"{path}: a stream ended with {last[:300]!r}")


CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


async def whole_chat(client: Client) -> None:
    await client.post(CHAT, client.chat())


async def whole_completion(client: Client) -> None:
    await client.post(COMPLETION, client.completion())


async def stream_chat(client: Client) -> None:
    await client.stream(CHAT, client.chat(stream_options={"include_usage": True}))


async def stream_completion(client: Client) -> None:
    await client.stream(COMPLETION, client.completion())


async def choices(client: Client) -> None:
    answer = await client.post(CHAT, client.chat(n=2, temperature=1, seed=client.rng.randrange(2**32)))
    assert len(answer["choices"]) == 2, answer


async def stop(client: Client) -> None:
    await client.post(COMPLETION, client.completion(stop=["e", client.tag], user=client.tag))


async def logprobs(client: Client) -> None:
    answer = await client.post(CHAT, client.chat(logprobs=True, top_logprobs=3))
    assert answer["choices"][0]["logprobs"] is not None, answer


async def prompt_logprobs(client: Client) -> None:
    await client.post(COMPLETION, client.completion(prompt_logprobs=1, logit_bias={"7": -5}))


async def known_schema(client: Client) -> None:
    await client.post(CHAT, with_schema(client, f"known_{client.rng.randrange(16)}"))


async def new_schema(client: Client) -> None:
    await client.post(CHAT, with_schema(client, f"new_{client.tag.replace('/', '_')}"))


def with_schema(client: Client, name: str) -> Body:
    schema = {
        "type": "object",
        "properties": {name: {"type": "string"}, "count": {"type": "integer"}},
        "required": [name],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return client.chat(response_format=form)


async def tools(client: Client) -> None:
    function = {
        "name": f"look_up_{client.rng.randrange(10**9)}",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
    }
    await client.post(CHAT, client.chat(tools=[{"type": "function", "function": function}]))


async def stored_response(client: Client) -> None:
    answer = await client.post(
        "/v1/responses", {"model": client.model, "input": client.text(), "max_output_tokens": 4}
    )
    if client.rng.random() < 0.3:
        body = {"model": client.model, "input": "more", "previous_response_id": answer["id"]}
        await client.post("/v1/responses", {**body, "max_output_tokens": 2})


async def message(client: Client) -> None:
    await client.post("/v1/messages", client.chat(max_tokens=2))


async def leave(client: Client) -> None:
    """Closes the connection in the middle of a stream, or before an answer."""
    body = client.chat(max_tokens=200, stream=client.rng.random() < 0.7)
    try:
        async with asyncio.timeout(client.rng.uniform(0.001, 0.1)):
            async with client.session.post(CHAT, json=body) as answer:
                async for _ in answer.content:
                    if client.rng.random() < 0.3:
                        answer.close()
                        return
    except TimeoutError:
        pass


async def refused(client: Client) -> None:
    path, wrong = client.rng.choice(
        (
            (CHAT, {"temperature": 3}),
            (CHAT, {"messages": client.tag}),
            (CHAT, {"n": 0}),
            (CHAT, {"response_format": {"type": client.tag}}),
            (CHAT, {"max_tokens": 10**6}),
            (COMPLETION, {"prompt": "x " * 3000}),
        )
    )
    body = client.chat() if path == CHAT else client.completion()
    answer = await client.post(path, {**body, **wrong}, 400)
    assert answer["error"]["message"], answer


Kind = Callable[[Client], Awaitable[None]]
KINDS: dict[Kind, int] = {
    whole_chat: 24, whole_completion: 20, stream_chat: 14, stream_completion: 8, choices: 6, stop: 5,
    logprobs: 4, prompt_logprobs: 1, known_schema: 3, new_schema: 2, tools: 1, stored_response: 2, message: 2,
    leave: 3, refused: 5,
}  # fmt: skip
"""What is sent, and how often of a hundred."""


@dataclass
class Load:
    """What was sent so far, what went wrong, and the process's state over it."""

    target: Target
    served: int
    every: int
    kinds: dict[Kind, int]
    sent: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    samples: list[dict[str, float]] = field(default_factory=list)

    def sample(self) -> None:
        """Notes the process's state."""
        self.samples.append({"served": self.served, **self.target.state()})

    def count(self) -> None:
        """One more was served."""
        self.served += 1
        if self.served % self.every == 0:
            self.sample()
            last = self.samples[-1]
            print(f"{self.served:7}: {last['memory_mb']:.1f} MiB, {last['threads']} threads", flush=True)


async def send(load: Load, number: int, connections: int, seconds: float, seed: int) -> None:
    """Sends ``number`` requests, so many at a time, or fewer where that takes longer than ``seconds``."""
    deadline = time.monotonic() + seconds
    numbers = itertools.count(load.served)
    last = load.served + number

    async def work(session: aiohttp.ClientSession, worker: int) -> None:
        rng = random.Random(f"{seed}/{load.served}/{worker}")
        client = Client(session, load.target.model, rng)
        while (mine := next(numbers)) < last and time.monotonic() < deadline:
            client.tag = f"{seed}/{mine}"
            [kind] = rng.choices(list(load.kinds), list(load.kinds.values()))
            try:
                await kind(client)
            except Exception as error:  # whatever it is: it is told at the end
                load.wrong.append(f"{kind.__name__}: {type(error).__name__}: {error}"[:400])
            load.sent[kind.__name__] += 1
            load.count()

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        load.target.url, connector=connector, timeout=aiohttp.ClientTimeout(None)
    ) as session:
        await asyncio.gather(*(work(session, worker) for worker in range(connections)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=24)
    parser.add_argument("--every", type=int, default=1000, help="requests between two looks at the process")
    parser.add_argument("--seconds", type=float, default=3600, help="stop after this time")
    parser.add_argument("--seed", type=int, default=0)
    names = [kind.__name__ for kind in KINDS]
    parser.add_argument("--kinds", nargs="+", choices=names, default=names, help="only these")
    parser.add_argument("--url", help="a server that runs already; it is not ended")
    parser.add_argument("--pid", type=int, help="its process")
    parser.add_argument("--served", type=int, default=0, help="requests that it has served before")
    parser.add_argument("--out", type=Path, required=True, help="write the curves to this file")


def run(args: argparse.Namespace) -> int:
    """Sends and writes; 1 where an answer was not what it should be."""
    process = None
    if args.url is None:
        process, args.url = start([])
        args.pid = process.pid
    began = time.monotonic()
    try:
        kinds = {kind: weight for kind, weight in KINDS.items() if kind.__name__ in args.kinds}
        model = httpx.get(args.url + "/v1/models").json()["data"][0]["id"]
        load = Load(Target(args.url, args.pid, model), args.served, args.every, kinds)
        load.sample()
        asyncio.run(send(load, args.requests, args.connections, args.seconds, args.seed))
    finally:
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait()
    rate = (load.served - args.served) / (time.monotonic() - began)
    print(f"{load.served} served, {rate:.0f} a second; {dict(load.sent)}")
    for line in load.wrong[:10]:
        print(f"WRONG: {line}")
    served = [sample["served"] for sample in load.samples]
    curves = [Curve(MEMORY, "resident", served, [sample["memory_mb"] for sample in load.samples])]
    for name in ("threads", "sockets", "open files"):
        curves.append(Curve(PROCESS, name, served, [sample[name] for sample in load.samples]))
    write(args.out, curves, sent=dict(load.sent), wrong=load.wrong[:100], requests_per_second=rate)
    return bool(load.wrong)
