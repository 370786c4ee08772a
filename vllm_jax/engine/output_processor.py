"""From sampled tokens to what a client sees: text, stop strings, logprobs, times.

Knows detokenization and the requests that have not ended. Does not know when steps run; it tells the
engine which sequences a stop string has ended, and the engine tells the scheduler.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

import numpy as np

from vllm_jax.engine.logprobs import position_logprobs, prompt_position_logprobs
from vllm_jax.engine.request import Request
from vllm_jax.errors import InvalidRequestError
from vllm_jax.metrics import Metrics
from vllm_jax.outputs import CompletionOutput, FinishReason, PositionLogprobs, RequestMetrics, RequestOutput
from vllm_jax.runner.model_runner import RowLogprobs, StepResult
from vllm_jax.scheduled_batch import ScheduledBatch
from vllm_jax.sequence import Sequence
from vllm_jax.tokenizer.base import Tokenizer
from vllm_jax.tokenizer.detokenizer import IncrementalDetokenizer
from vllm_jax.tokenizer.stop_strings import StopStringMatcher

logger = logging.getLogger(__name__)

Stopped = tuple[Sequence, FinishReason, str | None]
"""A sequence that the output processor has ended, with its finish and stop reason."""


@dataclass
class _SequenceState:
    """The client's view of one sequence."""

    sequence: Sequence
    detokenizer: IncrementalDetokenizer | None
    matcher: StopStringMatcher | None
    num_processed: int = 0
    cumulative_logprob: float | None = None
    last_token_time: float | None = None
    finished: bool = False

    def text_of(self, token: int) -> tuple[str, str | None]:
        """Text that may be shown after ``token``, and the stop string it completed, if any."""
        text = self.detokenizer.push(token) if self.detokenizer else ""
        return self.matcher.push(text) if self.matcher else (text, None)

    def rest(self) -> tuple[str, str | None]:
        """What was held back until now, at the end of the sequence."""
        text = self.detokenizer.flush() if self.detokenizer else ""
        if self.matcher is None:
            return text, None
        shown, stop = self.matcher.push(text)
        return (shown, stop) if stop is not None else (shown + self.matcher.flush(), None)


@dataclass
class _RequestState:
    """The client's view of one request."""

    request: Request
    sequences: list[_SequenceState]
    times: RequestMetrics
    prompt_logprobs: list[PositionLogprobs | None] | None = None
    embedding: np.ndarray | None = None
    outputs: dict[int, CompletionOutput] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return all(s.finished for s in self.sequences)

    @property
    def presentable(self) -> bool:
        """Whether the gathered delta may go out: the prompt's logprobs come once, whole, and first.

        Another sequence of the request can be ahead of the one that scores the prompt.
        """
        return self.finished or self.prompt_logprobs is None or None not in self.prompt_logprobs[1:]


class OutputProcessor:
    """Keeps the state of every request that has not ended."""

    def __init__(self, tokenizer: Tokenizer | None, metrics: Metrics):
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._requests: dict[str, _RequestState] = {}

    @property
    def num_requests(self) -> int:
        """Requests that have not ended."""
        return len(self._requests)

    def add(self, request: Request, sequences: list[Sequence]) -> None:
        """Starts to follow a request. Raises InvalidRequestError if its id is in use."""
        if request.request_id in self._requests:
            raise InvalidRequestError(f"Request id {request.request_id!r} is in use.", "request_id")
        states = [_SequenceState(s, self._detokenizer(s), _matcher(s)) for s in sequences]
        times = RequestMetrics(arrival_time=request.arrival_time)
        state = _RequestState(request, states, times)
        if request.params.prompt_logprobs is not None:
            state.prompt_logprobs = [None] * len(request.prompt_token_ids)
        self._requests[request.request_id] = state

    def drop(self, request_id: str) -> None:
        """Forgets a request that never started."""
        self._requests.pop(request_id, None)

    def abort(self, request_id: str) -> RequestOutput | None:
        """Ends a request; the last delta, or None if there is no such request."""
        state = self._requests.get(request_id)
        if state is None:
            return None
        for sequence in state.sequences:
            if not sequence.finished:
                self._end(state, sequence, CompletionOutput(sequence.sequence.index), "abort", None)
        return self._take_output(state, time.monotonic())

    def process(
        self, batch: ScheduledBatch, result: StepResult, now: float
    ) -> tuple[list[RequestOutput], list[Stopped]]:
        """Turns a step's result into deltas. ``now`` is in seconds of ``time.monotonic()``.

        A sequence whose output cannot be made (a tokenizer's bug, say) ends with "error" on its own.

        Returns:
            one delta for each request that has something new, and the sequences that ended here.
        """
        touched: dict[str, _RequestState] = {}
        stopped: list[Stopped] = []
        for i, row in enumerate(batch.rows):
            state = self._requests.get(row.seq.request_id)
            if state is None:
                continue
            sequence = state.sequences[row.seq.index]
            if sequence.finished:
                continue
            if state.times.first_scheduled_time is None:
                state.times.first_scheduled_time = row.seq.first_scheduled_time
            try:
                scores = result.prompt_logprobs[i]
                if scores is not None and state.prompt_logprobs is not None:
                    prompt_position_logprobs(state.prompt_logprobs, scores, row.seq, self._tokenizer)
                if row.seq.num_output_tokens > sequence.num_processed:
                    if result.embeddings[i] is not None:
                        state.embedding = result.embeddings[i]
                    stop = self._advance(state, sequence, result.logprobs[i], now)
                    touched[row.seq.request_id] = state
                    if stop is not None:
                        stopped.append((row.seq, "stop", stop))
            except Exception:
                logger.exception("request %s failed while its output was made", row.seq.request_id)
                self._end(state, sequence, CompletionOutput(row.seq.index), "error", None, flush=False)
                touched[row.seq.request_id] = state
                stopped.append((row.seq, "error", None))
        ready = [state for state in touched.values() if state.presentable]
        return [self._take_output(state, now) for state in ready], stopped

    def _advance(
        self, state: _RequestState, sequence: _SequenceState, logprobs: RowLogprobs | None, now: float
    ) -> str | None:
        """Shows the sequence's next token; the stop string that ended it, if one did."""
        seq = sequence.sequence
        token = seq.output_token_ids[sequence.num_processed]
        sequence.num_processed += 1
        self._record_token(state, sequence, now)
        output = CompletionOutput(seq.index, token_ids=[token])
        if logprobs is not None:
            output.logprobs = [position_logprobs(logprobs, token, seq.params, self._tokenizer)]
            sequence.cumulative_logprob = (sequence.cumulative_logprob or 0.0) + logprobs.logprob
        # EOS is the end, not a part of the answer, even where special tokens are shown.
        silent = token in seq.eos_token_ids and not seq.params.include_stop_str_in_output
        output.text, stop = ("", None) if silent else sequence.text_of(token)
        if stop is not None:
            self._end(state, sequence, output, "stop", stop, flush=False)
            return stop
        if seq.finish_reason is not None:
            return self._end(state, sequence, output, seq.finish_reason, seq.stop_reason)
        self._put(state, sequence, output)
        return None

    def _end(
        self,
        state: _RequestState,
        sequence: _SequenceState,
        output: CompletionOutput,
        reason: FinishReason,
        stop_reason: int | str | None,
        *,
        flush: bool = True,
    ) -> str | None:
        """Ends a sequence; the stop string that its held-back text completed, if it did."""
        stop = None
        if flush:
            text, stop = sequence.rest()
            output.text += text
            if stop is not None:
                reason, stop_reason = "stop", stop
        output.finish_reason, output.stop_reason = reason, stop_reason
        sequence.finished = True
        self._metrics.on_sequence_finished(reason)
        self._put(state, sequence, output)
        return stop

    def _put(self, state: _RequestState, sequence: _SequenceState, output: CompletionOutput) -> None:
        output.cumulative_logprob = sequence.cumulative_logprob
        if output.index in state.outputs:
            state.outputs[output.index].merge(output)
        else:
            state.outputs[output.index] = output

    def _take_output(self, state: _RequestState, now: float) -> RequestOutput:
        """The delta that has gathered in ``state``; forgets the request if it has ended."""
        request, times = state.request, state.times
        outputs = [state.outputs[i] for i in sorted(state.outputs)]
        state.outputs = {}
        times.num_preemptions = sum(s.sequence.num_preemptions for s in state.sequences)
        delta = RequestOutput(
            request_id=request.request_id,
            prompt=request.prompt,
            prompt_token_ids=request.prompt_token_ids,
            outputs=outputs,
            finished=state.finished,
            prompt_logprobs=state.prompt_logprobs,
            num_cached_tokens=state.sequences[0].sequence.num_cached_tokens,
            metrics=times,
            embedding=state.embedding,
        )
        state.prompt_logprobs = None
        if state.finished:
            times.finished_time = now
            del self._requests[request.request_id]
            self._metrics.on_request_finished(
                times,
                prompt_tokens=len(request.prompt_token_ids),
                cached_tokens=delta.num_cached_tokens,
                generation_tokens=[s.num_processed for s in state.sequences],
                max_tokens=request.params.max_tokens,
            )
        return delta

    def _record_token(self, state: _RequestState, sequence: _SequenceState, now: float) -> None:
        times = state.times
        if times.first_token_time is None:
            times.first_token_time = now
            self._metrics.on_first_token(
                seconds=now - times.arrival_time,
                prompt_tokens=len(state.request.prompt_token_ids),
                cached_tokens=state.sequences[0].sequence.num_cached_tokens,
            )
        before = sequence.last_token_time
        self._metrics.on_generated(1, seconds=None if before is None else now - before)
        times.last_token_time = sequence.last_token_time = now

    def _detokenizer(self, seq: Sequence) -> IncrementalDetokenizer | None:
        if self._tokenizer is None or not seq.params.detokenize:
            return None
        return IncrementalDetokenizer(
            self._tokenizer,
            seq.prompt_token_ids,
            skip_special_tokens=seq.params.skip_special_tokens,
            spaces_between_special_tokens=seq.params.spaces_between_special_tokens,
            shown_special_token_ids=seq.params.shown_special_token_ids,
        )


def _matcher(seq: Sequence) -> StopStringMatcher | None:
    if not seq.params.stop:
        return None
    return StopStringMatcher(
        seq.params.stop, include_stop_str_in_output=seq.params.include_stop_str_in_output
    )
