"""``vllm-jax run-batch``: answers a file of requests, in this process and without a socket.

The requests go through the same application as those of clients, so that they mean the same. Knows how many
run at a time and what becomes of an interruption; the files are :mod:`api.commands.batch_file`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from starlette.types import ASGIApp

from api.commands.arguments import parse_with_serve
from api.commands.batch_file import BatchOutput, BatchRequest, check_requests, read_requests
from api.commands.usage import UsageError
from api.server_config import HttpConfig
from vllm_jax.errors import ConfigError

if TYPE_CHECKING:
    from vllm_jax.engine.async_engine import AsyncEngine

PROG = "vllm-jax run-batch [MODEL]"
DESCRIPTION = """Answer a file of requests, a JSON object a line, as OpenAI's batches have them:

{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": ..., "messages": [...]}}

Run it again after an interruption: what the output file answers already is kept, and the rest is done.

MODEL and all other flags are those of vllm-jax serve; no address is opened."""

ALIASES = {"-i": "--input-file", "-o": "--output-file"}
URLS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/embeddings",
        "/v1/messages",
        "/tokenize",
        "/detokenize",
    }
)
"""What a line may ask for, as far as the server has it."""
_JSON = {"Content-Type": "application/json"}
_TRIES = 6
_FIRST_PAUSE_S = 0.2


@dataclass(frozen=True)
class BatchConfig:
    """The files, and how they are worked through."""

    input_file: str | None = None
    """Requests, a JSON object a line. Also -i."""
    output_file: str | None = None
    """Answers, a line for every line of the input, in its order once all is done. Also -o."""
    max_inflight: int = 128
    """Most requests under way at a time."""
    enable_metrics: bool = False
    """Accepted without effect, as --host and --port are: no address is opened to ask for them."""
    overwrite: bool = False
    """Forget the answers that the output file has already."""
    progress: bool = True
    """Show a progress bar."""


@dataclass(frozen=True)
class RunBatch:
    """The flags of ``vllm-jax run-batch``, beside those of ``serve``."""

    batch: BatchConfig = field(default_factory=BatchConfig)

    def validate(self) -> None:
        """Raises ConfigError; the text names the flag."""
        batch = self.batch
        if batch.input_file is None or batch.output_file is None:
            raise ConfigError("-i INPUT.jsonl and -o OUTPUT.jsonl are needed; see vllm-jax run-batch --help")
        if batch.max_inflight < 1:
            raise ConfigError(f"--max-inflight must be at least 1, got {batch.max_inflight}")
        if Path(batch.input_file).resolve() == Path(batch.output_file).resolve():
            raise ConfigError("-i and -o must be two files")


@dataclass
class Tally:
    """How it went: answers, answers that are errors, and the tokens of all."""

    answered: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


def run_batch(argv: Sequence[str]) -> int:
    """Runs ``vllm-jax run-batch ARGV``; 0 where every line has an answer, 130 after an interruption.

    Raises:
        UsageError: it was called wrongly, or a line of the input cannot be told apart; nothing has been run.
        ConfigError: the model cannot be loaded, or a file cannot be written.
    """
    config, served = parse_with_serve(RunBatch, argv, prog=PROG, description=DESCRIPTION, aliases=ALIASES)
    batch = config.batch
    assert batch.input_file is not None and batch.output_file is not None
    source, target = Path(batch.input_file), Path(batch.output_file)
    try:
        order = check_requests(source)
    except ConfigError as error:
        raise UsageError(str(error)) from None
    if batch.overwrite:
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
    output = BatchOutput(target, order)
    left = len(order) - len(output.done)
    console = Console(stderr=True)
    if output.done:
        console.print(f"{len(output.done)} of {len(order)} are answered already", highlight=False)
    if not left:
        output.close(sort=True)
        console.print("nothing is left to do", highlight=False)
        return 0
    for note in served.notes + _notes(batch, served.server.http):
        print(f"vllm-jax: warning: {note}", file=sys.stderr)
    from api.app import create_app
    from api.commands.logs import configure_logging
    from api.commands.serve import load_context

    server = served.server
    # No address, so no keys: who may read the input file may ask.
    server = dataclasses.replace(server, http=dataclasses.replace(server.http, api_key=()))
    configure_logging(server.log)
    tally = Tally()
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(lambda: output.close(sort=len(output.done) == len(order)))
        context = load_context(served.engine, server)
        cleanup.callback(context.prompts.close)
        began = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, disable=not batch.progress) as bar:
            task = bar.add_task("Answering", total=len(order), completed=len(output.done))

            def done(line: dict[str, Any]) -> None:
                output.write(line)
                _count(tally, line)
                bar.update(task, advance=1, description=f"Answering ({tally.failed} failed)")

            requests = (r for r in read_requests(source) if r.custom_id not in output.done)
            runner = _Runner(create_app(context), context.engine, requests, batch.max_inflight, done)
            whole = asyncio.run(runner.run())
    seconds = time.monotonic() - began
    rate = (tally.prompt_tokens + tally.completion_tokens) / seconds
    console.print(
        f"{tally.answered} answered in {seconds:.1f} s, {tally.failed} of them with an error; "
        f"{tally.prompt_tokens:,} tokens in, {tally.completion_tokens:,} out, {rate:.0f} a second",
        highlight=False,
    )
    if not whole:
        console.print(f"stopped: {len(output.done)} of {len(order)} are answered. Run it again to go on")
        return 130
    return 0


def _notes(batch: BatchConfig, http: HttpConfig) -> list[str]:
    """What is said of flags that ask for an address."""
    plain = HttpConfig()
    asked = {
        "--enable-metrics": batch.enable_metrics,
        "--host": http.host != plain.host,
        "--port": http.port != plain.port,
    }
    return [f"{flag} has no effect: run-batch opens no address" for flag, given in asked.items() if given]


class _Runner:
    """Keeps some requests under way until there are no more, or a signal comes."""

    def __init__(
        self,
        app: ASGIApp,
        engine: AsyncEngine,
        requests: Iterator[BatchRequest],
        max_inflight: int,
        done: Callable[[dict[str, Any]], None],
    ):
        self._app = app
        self._engine = engine
        self._requests = requests
        self._max_inflight = max_inflight
        self._done = done
        self._stopped = False

    async def run(self) -> bool:
        """Works through all, and ends the engine; whether none is left.

        Raises:
            ConfigError: the engine has failed, or an answer cannot be written.
        """
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://batch", timeout=None) as client:
            workers = [asyncio.create_task(self._work(client)) for _ in range(self._max_inflight)]

            def stop() -> None:
                self._stopped = True
                for worker in workers:
                    worker.cancel()

            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                    loop.add_signal_handler(number, stop)
            try:
                await asyncio.gather(*workers)
            except asyncio.CancelledError:
                if not self._stopped:
                    raise
            except OSError as error:
                raise ConfigError(f"an answer cannot be written: {error.strerror}") from None
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
                await self._engine.shutdown(0)
        return not self._stopped

    async def _work(self, client: httpx.AsyncClient) -> None:
        for request in self._requests:
            line = await _answer(client, request)
            if self._engine.dead:
                raise ConfigError("the engine has failed. What is answered is kept: run it again to go on")
            self._done(line)


async def _answer(client: httpx.AsyncClient, request: BatchRequest) -> dict[str, Any]:
    """The line of the output for one request."""
    problem = _problem(request)
    if problem is not None:
        return _line(request, 400, _error(*problem))
    # ASCII, with whatever JSON's letter forbids (NaN, half a character) as it is: the application refuses it.
    try:
        content = json.dumps(request.body).encode()
    except RecursionError:
        return _line(request, 400, _error("body", "it nests too deep"))
    pause = _FIRST_PAUSE_S
    for tries_left in reversed(range(_TRIES)):
        answer = await client.post(request.url, content=content, headers=_JSON)
        if answer.status_code != 503 or not tries_left:
            break
        await asyncio.sleep(pause)  # more than the queue may hold: it drains
        pause *= 2
    try:
        body = answer.json()
    except ValueError:
        body = {"error": {"message": answer.text[:2000]}}
    return _line(request, answer.status_code, body, answer.headers.get("x-request-id"))


def _line(request: BatchRequest, status: int, body: Any, request_id: str | None = None) -> dict[str, Any]:
    """A line of the output, as vLLM's has it: a body that is an error stands under ``error``."""
    known_id = body.get("id") if isinstance(body, dict) else None
    response = {
        "status_code": status,
        "request_id": request_id or known_id or f"vllm-batch-{uuid.uuid4().hex}",
        "body": body if status == 200 else None,
    }
    line = {"id": f"vllm-{uuid.uuid4().hex}", "custom_id": request.custom_id, "response": response}
    return {**line, "error": None if status == 200 else body}


def _error(param: str, message: str) -> dict[str, Any]:
    """The body of the answer that a client would get."""
    return {"error": {"message": message, "type": "BadRequestError", "param": param, "code": 400}}


def _problem(request: BatchRequest) -> tuple[str, str] | None:
    """What keeps a request from being asked at all: the key and a message, or None."""
    if request.method != "POST":
        return "method", f"method must be POST, got {request.method!r}"
    if not isinstance(request.url, str) or request.url not in URLS:
        return "url", f"url must be one of {', '.join(sorted(URLS))}, got {request.url!r}"
    if not isinstance(request.body, dict):
        return "body", "body must be a JSON object"
    if request.body.get("stream"):
        return "stream", "a batch does not stream: leave stream out"
    return None


def _count(tally: Tally, line: dict[str, Any]) -> None:
    response = line["response"]
    tally.answered += 1
    if response["status_code"] != 200:
        tally.failed += 1
        return
    usage = response["body"].get("usage") or {} if isinstance(response["body"], dict) else {}
    tally.prompt_tokens += usage.get("prompt_tokens") or usage.get("input_tokens") or 0
    tally.completion_tokens += usage.get("completion_tokens") or usage.get("output_tokens") or 0
