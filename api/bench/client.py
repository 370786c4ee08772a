"""A streaming client that keeps the time: one request after the other, or many at once.

Knows OpenAI's completions and chat streams. Does not know what the times are for.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp

from api.bench.workload import WorkItem

Backend = Literal["openai", "openai-chat", "vllm"]
_MOST_ERROR_CHARACTERS = 300


@dataclass(slots=True)
class Measurement:
    """What was seen of one request. Times are seconds of one monotonic clock; ``start`` is the sending."""

    item: WorkItem
    start: float = 0.0
    end: float = 0.0
    token_times: list[float] = field(default_factory=list)
    """When each chunk with text came."""
    text: str = ""
    prompt_tokens: int | None = None
    """As the server counted them (usage), or None where it did not say."""
    completion_tokens: int | None = None
    finish_reason: str | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the request was answered."""
        return self.error is None and bool(self.token_times)

    @property
    def output_tokens(self) -> int:
        """Tokens generated: what usage says, else the chunks that came."""
        return len(self.token_times) if self.completion_tokens is None else self.completion_tokens

    @property
    def ttft(self) -> float:
        """Time to first token, seconds."""
        return self.token_times[0] - self.start

    @property
    def e2el(self) -> float:
        """End to end: from sending to the last token, seconds."""
        return self.token_times[-1] - self.start

    @property
    def tpot(self) -> float | None:
        """Mean time of an output token after the first, seconds; None where there is one token only."""
        if self.output_tokens < 2:
            return None
        return (self.token_times[-1] - self.token_times[0]) / (self.output_tokens - 1)

    @property
    def itls(self) -> list[float]:
        """Gaps between chunks, seconds."""
        return [b - a for a, b in zip(self.token_times, self.token_times[1:], strict=False)]


@dataclass(frozen=True)
class Target:
    """Where requests go and what is in all of them.

    ``extra_body`` is laid over each body; a None in it takes the key away.
    """

    base_url: str
    model: str
    backend: Backend = "openai"
    endpoint: str | None = None
    """Path; the default belongs to the backend."""
    api_key: str | None = None
    ignore_eos: bool = True
    temperature: float | None = 0.0
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    verify_tls: bool = True
    timeout_s: float = 6 * 3600

    @property
    def url(self) -> str:
        """The whole address."""
        default = "/v1/chat/completions" if self.backend == "openai-chat" else "/v1/completions"
        return self.base_url.rstrip("/") + (self.endpoint or default)

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def body(self, item: WorkItem) -> dict[str, Any]:
        """The request's JSON."""
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": item.max_tokens,
            "temperature": self.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.backend == "openai-chat":
            body["messages"] = [{"role": "user", "content": item.prompt}]
        else:
            body["prompt"] = item.prompt
        if self.ignore_eos:
            body["ignore_eos"] = True
        body.update(self.extra_body)
        return {key: value for key, value in body.items() if value is not None}


def open_session(target: Target) -> aiohttp.ClientSession:
    """A session without limits of its own, to be closed by the caller; inside a running loop.

    Every request has a connection of its own, as those of independent clients: some servers close kept ones
    without a word, just when the next request comes.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True, ssl=target.verify_tls),
        timeout=aiohttp.ClientTimeout(total=target.timeout_s),
        headers=target.headers,
    )


async def send(session: aiohttp.ClientSession, target: Target, item: WorkItem) -> Measurement:
    """Sends one request and reads its stream to the end. Failures are in ``Measurement.error``."""
    seen = Measurement(item, start=time.perf_counter())
    try:
        async with session.post(target.url, json=target.body(item)) as response:
            if response.status != 200:
                seen.error = f"HTTP {response.status}: {_shorten(await response.text())}"
            else:
                async for line in response.content:
                    if line.startswith(b"data:") and not _read_event(seen, line[5:].strip()):
                        break
                else:  # some servers end a finished stream without [DONE]
                    if seen.finish_reason is None:
                        seen.error = "the stream ended early"
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
        seen.error = _shorten(f"{type(error).__name__}: {error}")
    seen.end = time.perf_counter()
    if seen.error is None and not seen.token_times:
        seen.error = "the answer has no text"
    return seen


def _read_event(seen: Measurement, data: bytes) -> bool:
    """Takes in one event; False at the end of the stream."""
    now = time.perf_counter()
    if data == b"[DONE]":
        return False
    event = json.loads(data)
    if event.get("error"):
        seen.error = _shorten(json.dumps(event["error"]))
        return False
    if usage := event.get("usage"):
        seen.prompt_tokens = usage.get("prompt_tokens")
        seen.completion_tokens = usage.get("completion_tokens")
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        text = choice.get("text") or delta.get("content") or delta.get("reasoning") or ""
        if text:
            seen.token_times.append(now)
            seen.text += text
        seen.finish_reason = choice.get("finish_reason") or seen.finish_reason
    return True


async def send_all(
    target: Target,
    items: Sequence[WorkItem],
    *,
    max_concurrency: int | None = None,
    on_done: Callable[[Measurement], None] = lambda measurement: None,
) -> tuple[list[Measurement], float]:
    """Sends every item at its time; the measurements in the items' order, and the seconds it all took.

    With ``max_concurrency`` an item waits here for its turn; the waiting is not in its times.
    """
    gate = asyncio.Semaphore(max_concurrency or len(items) or 1)
    async with open_session(target) as session:
        begin = time.perf_counter()

        async def one(item: WorkItem) -> Measurement:
            await asyncio.sleep(max(0.0, begin + item.at - time.perf_counter()))
            async with gate:
                measurement = await send(session, target, item)
            on_done(measurement)
            return measurement

        done = await asyncio.gather(*(one(item) for item in items))
        return list(done), time.perf_counter() - begin


def _shorten(text: str) -> str:
    return " ".join(text.split())[:_MOST_ERROR_CHARACTERS]
