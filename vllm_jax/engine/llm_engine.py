"""The heart: requests in, steps, deltas out. One thread calls it; it knows neither asyncio nor HTTP.

    add_request -> Scheduler -> ScheduledBatch -> ModelRunner -> tokens -> Scheduler.update -> OutputProcessor

The loop is pipelined by one step: a step is dispatched before the tokens of the one before are read, so
that the device works while the host detokenizes. A sequence that has ended by then has computed one token
too many, which is dropped.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from typing import Any

from vllm_jax.engine.grammar_steps import GrammarSteps
from vllm_jax.engine.info import ModelInfo
from vllm_jax.engine.output_processor import OutputProcessor
from vllm_jax.engine.request import (
    PreparedParams,
    PreparedRequest,
    Request,
    prepare_params,
    prepare_request,
)
from vllm_jax.errors import RecompilationError
from vllm_jax.metrics import Metrics
from vllm_jax.outputs import RequestOutput
from vllm_jax.runner.compile_watch import CompilationWatch
from vllm_jax.runner.model_runner import DispatchedStep, ModelRunner
from vllm_jax.sampling.seeds import fresh_seed
from vllm_jax.sampling_params import SamplingParams, StructuredOutput
from vllm_jax.scheduled_batch import ScheduledBatch
from vllm_jax.scheduler.scheduler import Scheduler
from vllm_jax.structured_output.compiler import GrammarCompiler
from vllm_jax.structured_output.vocabulary import Vocabulary
from vllm_jax.tokenizer.base import Tokenizer

logger = logging.getLogger(__name__)

_STEPS_IN_FLIGHT = 1


class LLMEngine:
    """Serves many requests at once with continuous batching."""

    def __init__(
        self,
        *,
        info: ModelInfo,
        runner: ModelRunner,
        scheduler: Scheduler,
        tokenizer: Tokenizer | None,
        metrics: Metrics,
        seed: int,
        forbid_recompile: bool = False,
    ):
        self.info = info
        self.tokenizer = tokenizer
        self.metrics = metrics
        self._runner = runner
        self._scheduler = scheduler
        self._outputs = OutputProcessor(tokenizer, metrics)
        self._grammars = (
            None
            if tokenizer is None
            else GrammarCompiler(Vocabulary(tokenizer, info.vocab_size, info.eos_token_ids))
        )
        self._grammar_steps = GrammarSteps()
        self._in_flight: deque[DispatchedStep] = deque()
        self._seed = seed
        self._watch = CompilationWatch()
        self._forbid_recompile = forbid_recompile
        self._request_numbers = itertools.count()
        self._last_prefix_stats = (0, 0)

    def prepare_params(self, params: SamplingParams) -> PreparedParams:
        """Holds sampling parameters to the model. Thread-safe; may take long, and can be shared.

        Raises:
            InvalidRequestError: they cannot be honoured.
        """
        return prepare_params(params, self.info, self.tokenizer, self._grammars)

    def knows_grammar(self, output: StructuredOutput) -> bool:
        """Whether the grammar of ``output`` has been compiled and kept. Thread-safe."""
        return self._grammars is not None and self._grammars.known(output) is not None

    def prepare(self, request: Request, prepared: PreparedParams | None = None) -> PreparedRequest:
        """Checks a request and makes its sequences. Thread-safe; may run while a step does.

        Raises:
            InvalidRequestError: it can never be served as it is.
        """
        unseeded = fresh_seed(self._seed, next(self._request_numbers))
        prepared = prepared or self.prepare_params(request.params)
        return prepare_request(request, prepared, self.info, unseeded)

    def add_request(self, prepared: PreparedRequest) -> None:
        """Queues a prepared request.

        Raises:
            InvalidRequestError: the KV cache can never hold it, or its id is in use.
        """
        request_id = prepared.request.request_id
        self._outputs.add(prepared.request, prepared.sequences)
        try:
            for sequence in prepared.sequences:
                self._scheduler.add(sequence)
        except Exception:
            self._scheduler.abort(request_id)
            self._outputs.drop(request_id)
            raise

    def abort_request(self, request_id: str) -> RequestOutput | None:
        """Ends a request now and frees its blocks; the last delta, or None if there is no such request."""
        self._scheduler.abort(request_id)
        self._record(ScheduledBatch())
        return self._outputs.abort(request_id)

    @property
    def has_work(self) -> bool:
        """Whether :meth:`step` has anything to do."""
        return self._scheduler.has_work or bool(self._in_flight)

    @property
    def num_requests(self) -> int:
        """Requests that have not ended."""
        return self._outputs.num_requests

    def step(self) -> list[RequestOutput]:
        """Dispatches the next step, reads the oldest one, and returns what is new for each request.

        Raises:
            RecompilationError: something was compiled on the way, and that is forbidden.
        """
        with self._watch.here() as seen:
            outputs = self._step()
        if seen.names:
            self._on_compilation(seen.names)
        return outputs

    def _on_compilation(self, names: list[str]) -> None:
        """Requests waited for a compiler: warm-up missed a program, or the host path left numpy."""
        self.metrics.on_compilation(len(names))
        if self._forbid_recompile:
            raise RecompilationError(f"compiled after ready: {', '.join(names)}")
        logger.error("compiled after ready, while requests waited: %s", ", ".join(names))

    def _step(self) -> list[RequestOutput]:
        batch = self._scheduler.schedule()
        if not batch.empty:
            self._in_flight.append(self._runner.execute(batch))
        outputs: list[RequestOutput] = []
        if len(self._in_flight) > (0 if batch.empty else _STEPS_IN_FLIGHT):
            step = self._in_flight.popleft()
            result = step.read()
            self._scheduler.update(step.batch, result.tokens)
            for sequence, reason in self._grammar_steps.advance(step.batch, result.tokens):
                self._scheduler.finish(sequence, reason)
            outputs, stopped = self._outputs.process(step.batch, result, time.monotonic())
            for sequence, reason, stop_reason in stopped:
                self._scheduler.finish(sequence, reason, stop_reason)
        self._record(batch)
        return outputs

    def reset_prefix_cache(self) -> bool:
        """Forgets all cached prefixes; whether none was in use (those drain with their sequences)."""
        return self._scheduler.reset_prefix_cache()

    @property
    def model(self) -> Any:
        """The Flax NNX module with the served weights."""
        return self._runner.model

    @property
    def num_used_blocks(self) -> int:
        """KV blocks that sequences hold."""
        return self._scheduler.num_blocks - self._scheduler.num_free_blocks

    def _record(self, batch: ScheduledBatch) -> None:
        """Publishes the scheduler's state as it is now, and what ``batch`` added."""
        scheduler = self._scheduler
        # A decode's token is the one sampled for it; where a prompt ends, one more is sampled.
        first_tokens = sum(row.samples for row in batch.rows[batch.num_decodes :])
        self.metrics.on_step(
            running=scheduler.num_running,
            waiting=scheduler.num_waiting,
            kv_cache_usage=scheduler.kv_cache_usage,
            num_tokens=batch.num_tokens + first_tokens,
            preemptions=len(batch.preempted),
        )
        queries, hits = scheduler.prefix_cache_stats
        if (queries, hits) != self._last_prefix_stats:
            before = self._last_prefix_stats
            self.metrics.on_prefix_lookup(queries=queries - before[0], hits=hits - before[1])
            self._last_prefix_stats = (queries, hits)
