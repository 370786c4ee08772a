"""The bridge between asyncio and the engine thread.

    event loop                      engine thread
    generate() --- _Add ----------> commands --> LLMEngine.add_request
    stream    <--- deliver -------- deltas  <--- LLMEngine.step
    abort()   --- _Abort ---------> commands --> LLMEngine.abort_request

Knows threads, queues and streams; knows nothing of HTTP. A stream never holds more than one delta: a slow
reader's deltas are merged, so that what waits for it is bounded by its own answer.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from vllm_jax.config import EngineConfig, SchedulerConfig
from vllm_jax.engine.admission import AdmissionQueue
from vllm_jax.engine.collector import frozen_heap
from vllm_jax.engine.info import ModelInfo
from vllm_jax.engine.llm_engine import LLMEngine
from vllm_jax.engine.loading import load_engine
from vllm_jax.engine.request import PreparedParams, PreparedRequest, Request
from vllm_jax.errors import EngineDeadError
from vllm_jax.metrics import Metrics
from vllm_jax.outputs import RequestOutput
from vllm_jax.progress import ProgressReport, no_progress
from vllm_jax.sampling_params import SamplingParams, StructuredOutput
from vllm_jax.tokenizer.base import Tokenizer

logger = logging.getLogger(__name__)


class _Stream:
    """The event loop's end of a request: at most one delta that has not been taken yet."""

    def __init__(self, loop: asyncio.AbstractEventLoop, request_id: str):
        self.loop = loop
        self.request_id = request_id
        self._delta: RequestOutput | None = None
        self._error: Exception | None = None
        self._ready = asyncio.Event()

    def deliver(self, item: RequestOutput | Exception) -> None:
        """Called in the loop."""
        if isinstance(item, Exception):
            self._error = item
        elif self._delta is None:
            self._delta = item
        else:
            self._delta.merge(item)
        self._ready.set()

    async def take(self) -> RequestOutput:
        """Waits for something new. What came before an error is still given out first."""
        await self._ready.wait()
        if self._delta is not None:
            delta, self._delta = self._delta, None
            delta.request_id = self.request_id
            if self._error is None:
                self._ready.clear()
            return delta
        assert self._error is not None
        raise self._error


def _hand_out(letters: list[tuple[_Stream, RequestOutput | Exception]]) -> None:
    """Called in the loop."""
    for stream, item in letters:
        stream.deliver(item)


@dataclass(frozen=True)
class _Add:
    prepared: PreparedRequest


@dataclass(frozen=True)
class _Abort:
    request_id: str


@dataclass(frozen=True)
class _Call:
    """Runs ``function`` between two steps."""

    function: Callable[[], object]


class _Stop:
    """Ends the engine thread."""


_Command = _Add | _Abort | _Call | _Stop


class AsyncEngine:
    """Serves requests from any number of asyncio tasks; the engine itself runs in a thread of its own."""

    def __init__(self, engine: LLMEngine, limits: SchedulerConfig | None = None):
        limits = limits or SchedulerConfig()
        self._engine = engine
        self._queue = AdmissionQueue(
            limits.max_num_queued_reqs, limits.max_num_queued_tokens, engine.metrics.on_admission_rejection
        )
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._streams: dict[str, _Stream] = {}
        self._numbers = itertools.count()
        # Reentrant: a garbage collection inside the lock may drop a stream, which forgets itself.
        self._lock = threading.RLock()
        self._failure: EngineDeadError | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @classmethod
    def start(
        cls,
        config: EngineConfig,
        progress: ProgressReport = no_progress,
        *,
        served_name: str | None = None,
    ) -> AsyncEngine:
        """Loads the model, compiles every program and starts the engine thread. Blocks until ready.

        ``served_name`` is the model's name in the metrics; the default is the name it was loaded by.

        Raises:
            ConfigError: a setting or the checkpoint cannot be honoured.
        """
        return cls(load_engine(config, progress, served_name=served_name), config.scheduler)

    @property
    def info(self) -> ModelInfo:
        """Facts about what is served."""
        return self._engine.info

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, or None with ``skip_tokenizer_init``."""
        return self._engine.tokenizer

    @property
    def metrics(self) -> Metrics:
        """The engine's Prometheus instruments."""
        return self._engine.metrics

    @property
    def dead(self) -> bool:
        """Whether the engine loop has failed; it does not come back."""
        return self._failure is not None

    @property
    def num_requests(self) -> int:
        """Requests whose streams are open."""
        return len(self._streams)

    @property
    def num_used_blocks(self) -> int:
        """KV blocks that sequences hold."""
        return self._engine.num_used_blocks

    def generate(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        params: SamplingParams,
        *,
        prompt: str | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
        prepared: PreparedParams | None = None,
    ) -> DeltaStream:
        """Starts a request at the call; the stream yields its deltas until one is ``finished``.

        Closing, cancelling or dropping it aborts the request and frees its blocks. Must be called in a
        running event loop. ``prepared`` is what :meth:`prepare_params` made of ``params``, where several
        requests share them. Requests in flight may bear the same id.

        Raises:
            InvalidRequestError: at the call, the request cannot be served as it is.
            OverloadedError: at the call, too many requests wait already.
            EngineDeadError: at the call or while iterating, the engine has failed or is shutting down.
        """
        stream = _Stream(asyncio.get_running_loop(), request_id)
        unique_id = f"{request_id}/{next(self._numbers)}"
        request = Request(unique_id, prompt_token_ids, params, prompt, priority, cache_salt)
        ready = self._engine.prepare(request, prepared)
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._closing:
                raise EngineDeadError("the server is shutting down")
            self._queue.admit(unique_id, ready.sequences)
            self._streams[unique_id] = stream
        self._commands.put(_Add(ready))
        return DeltaStream(self, unique_id, stream)

    def prepare_params(self, params: SamplingParams) -> PreparedParams:
        """Holds sampling parameters to the model, once for several requests. Thread-safe; may take long.

        Raises:
            InvalidRequestError: they cannot be honoured.
        """
        return self._engine.prepare_params(params)

    def knows_grammar(self, output: StructuredOutput) -> bool:
        """Whether the grammar of ``output`` has been compiled and kept. Thread-safe."""
        return self._engine.knows_grammar(output)

    def abort(self, request_id: str) -> None:
        """Ends a request: its stream gets a last delta with reason "abort". Unknown ids are ignored."""
        with self._lock:
            mine = [key for key, stream in self._streams.items() if stream.request_id == request_id]
        for key in mine:
            self._commands.put(_Abort(key))

    def reset_prefix_cache(self) -> None:
        """Forgets all cached prefixes, between two steps; blocks in use stay with their sequences."""
        self._commands.put(_Call(self._engine.reset_prefix_cache))

    async def shutdown(self, timeout: float) -> None:
        """Refuses new requests, lets those in flight finish for ``timeout`` seconds, then aborts them."""
        with self._lock:
            self._closing = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while self._streams and not self.dead and loop.time() < deadline:
            await asyncio.sleep(0.02)
        for key in list(self._streams):
            self._commands.put(_Abort(key))
        grace = loop.time() + 5.0
        while self._streams and not self.dead and loop.time() < grace:
            await asyncio.sleep(0.02)
        self._commands.put(_Stop())
        await asyncio.to_thread(self._thread.join, 10.0)

    def _forget(self, key: str) -> None:
        with self._lock:
            self._streams.pop(key, None)
            self._queue.leave(key)

    def _abandon(self, key: str) -> None:
        """The reader of a stream has gone."""
        self._forget(key)
        self._commands.put(_Abort(key))

    # --- the engine thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with frozen_heap():
                while self._obey():
                    self._deliver(self._engine.step())
        except BaseException as error:
            logger.exception("the engine has failed")
            self._fail(error)

    def _obey(self) -> bool:
        """Carries out the waiting commands; waits for one if there is nothing to compute."""
        while True:
            try:
                command = self._commands.get(block=not self._engine.has_work)
            except queue.Empty:
                return True
            match command:
                case _Add(prepared):
                    self._add(prepared)
                case _Abort(request_id):
                    last = self._engine.abort_request(request_id)
                    self._deliver([last] if last is not None else [])
                case _Call(function):
                    function()
                case _Stop():
                    return False

    def _add(self, prepared: PreparedRequest) -> None:
        request_id = prepared.request.request_id
        if request_id not in self._streams:
            return
        try:
            self._engine.add_request(prepared)
        except Exception as error:
            self._send([(request_id, error)])

    def _deliver(self, deltas: list[RequestOutput]) -> None:
        self._send([(delta.request_id, delta) for delta in deltas])

    def _send(self, items: list[tuple[str, RequestOutput | Exception]]) -> None:
        """Hands items to their streams, with one call into each event loop: waking a loop is what costs."""
        mail: dict[asyncio.AbstractEventLoop, list[tuple[_Stream, RequestOutput | Exception]]] = {}
        for request_id, item in items:
            stream = self._streams.get(request_id)
            if stream is not None:
                mail.setdefault(stream.loop, []).append((stream, item))
        for loop, letters in mail.items():
            try:
                loop.call_soon_threadsafe(_hand_out, letters)
            except RuntimeError:  # The readers' event loop is closed: nobody is listening any more.
                for request_id, _ in items:
                    stream = self._streams.get(request_id)
                    if stream is not None and stream.loop is loop:
                        self._forget(request_id)
                        self._engine.abort_request(request_id)

    def _fail(self, error: BaseException) -> None:
        failure = EngineDeadError(f"the engine has failed: {type(error).__name__}")
        with self._lock:
            self._failure = failure
            waiting = list(self._streams)
        for request_id in waiting:
            self._send_failure(request_id, failure)

    def _send_failure(self, request_id: str, failure: EngineDeadError) -> None:
        stream = self._streams.get(request_id)
        if stream is not None and not stream.loop.is_closed():
            stream.loop.call_soon_threadsafe(stream.deliver, failure)


class DeltaStream(AsyncIterator[RequestOutput]):
    """The reader's end of a request. A class and not a generator, so that a request whose iteration never
    began is aborted too when its reader goes away."""

    def __init__(self, engine: AsyncEngine, key: str, stream: _Stream):
        self._engine = engine
        self._key = key
        self._stream = stream
        self._open = True

    def __aiter__(self) -> DeltaStream:
        return self

    async def __anext__(self) -> RequestOutput:
        if not self._open:
            raise StopAsyncIteration
        try:
            delta = await self._stream.take()
        except BaseException:
            self._close()
            raise
        if delta.finished:
            self._open = False
            self._engine._forget(self._key)
        return delta

    async def aclose(self) -> None:
        """Aborts the request if it has not ended."""
        self._close()

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._open:
            self._open = False
            self._engine._abandon(self._key)
