"""From sampled tokens to what a client sees: text, stop strings, logprobs, times.

Knows detokenization and the requests that have not ended. Does not know when steps run; it tells the
engine which sequences a stop string has ended, and the engine tells the scheduler.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from operator import attrgetter

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


@dataclass(slots=True)
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


@dataclass(slots=True)
class _RequestState:
    """The client's view of one request."""

    request: Request
    sequences: list[_SequenceState]
    times: RequestMetrics
    num_unfinished: int
    prompt_logprobs: list[PositionLogprobs | None] | None = None
    embedding: np.ndarray | None = None
    outputs: list[CompletionOutput] = field(default_factory=list)
    """What is new of each sequence, as far as there is something."""

    @property
    def finished(self) -> bool:
        return not self.num_unfinished

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
        state = _RequestState(request, states, times, len(states))
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
        # This loop runs for every token of every sequence: what most rows need is written out, once.
        touched: dict[str, _RequestState] = {}
        stopped: list[Stopped] = []
        latest: Counter[float] = Counter()  # when the tokens before this step's came, and of how many
        num_tokens = 0
        requests = self._requests
        parts = zip(batch.rows, result.logprobs, result.prompt_logprobs, result.embeddings, strict=True)
        for row, logprobs, scores, embedding in parts:
            seq = row.seq
            state = requests.get(seq.request_id)
            if state is None:
                continue
            sequence = state.sequences[seq.index]
            if sequence.finished:
                continue
            try:
                if scores is not None and state.prompt_logprobs is not None:
                    prompt_position_logprobs(state.prompt_logprobs, scores, seq, self._tokenizer)
                if len(seq.output_token_ids) <= sequence.num_processed:
                    continue
                num_tokens += embedding is None  # what is sampled beside an embedding is nobody's
                if sequence.last_token_time is None:
                    self._on_first_token(state, sequence, now)
                else:
                    latest[sequence.last_token_time] += 1
                sequence.last_token_time = now
                touched[seq.request_id] = state
                if embedding is not None:
                    state.embedding = embedding
                stop = self._advance(state, sequence, logprobs)
                if stop is not None:
                    stopped.append((seq, "stop", stop))
            except Exception:
                logger.exception("request %s failed while its output was made", seq.request_id)
                self._end(state, sequence, CompletionOutput(seq.index), "error", None, flush=False)
                touched[seq.request_id] = state
                stopped.append((seq, "error", None))
        if num_tokens:
            self._metrics.on_generated(num_tokens, {now - then: count for then, count in latest.items()})
        outputs = []
        for state in touched.values():
            state.times.last_token_time = now
            if state.presentable:
                outputs.append(self._take_output(state, now))
        return outputs, stopped

    def _advance(
        self, state: _RequestState, sequence: _SequenceState, logprobs: RowLogprobs | None
    ) -> str | None:
        """Shows the sequence's next token; the stop string that ended it, if one did."""
        seq = sequence.sequence
        token = seq.output_token_ids[sequence.num_processed]
        sequence.num_processed += 1
        # EOS is the end, not a part of the answer, even where special tokens are shown.
        if token in seq.eos_token_ids and not seq.params.include_stop_str_in_output:
            text, stop = "", None
        else:
            text, stop = sequence.text_of(token)
        output = CompletionOutput(seq.index, text, [token])
        if logprobs is not None:
            output.logprobs = [position_logprobs(logprobs, token, seq.params, self._tokenizer)]
            sequence.cumulative_logprob = (sequence.cumulative_logprob or 0.0) + logprobs.logprob
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
        state.num_unfinished -= 1
        self._metrics.on_sequence_finished(reason)
        self._put(state, sequence, output)
        return stop

    def _put(self, state: _RequestState, sequence: _SequenceState, output: CompletionOutput) -> None:
        output.cumulative_logprob = sequence.cumulative_logprob
        for gathered in state.outputs:
            if gathered.index == output.index:
                gathered.merge(output)
                return
        state.outputs.append(output)

    def _take_output(self, state: _RequestState, now: float) -> RequestOutput:
        """The delta that has gathered in ``state``; forgets the request if it has ended."""
        request, times = state.request, state.times
        outputs, state.outputs = state.outputs, []
        if len(outputs) > 1:
            outputs.sort(key=attrgetter("index"))
        delta = RequestOutput(
            request.request_id,
            request.prompt,
            request.prompt_token_ids,
            outputs,
            state.finished,
            state.prompt_logprobs,
            state.sequences[0].sequence.num_cached_tokens,
            times,
            state.embedding,
        )
        state.prompt_logprobs = None
        if state.finished:
            first = state.sequences[0].sequence
            times.first_scheduled_time = times.first_scheduled_time or first.first_scheduled_time
            times.num_preemptions = sum(s.sequence.num_preemptions for s in state.sequences)
            times.finished_time = now
            del self._requests[request.request_id]
            self._metrics.on_request_finished(
                times,
                prompt_tokens=len(request.prompt_token_ids),
                cached_tokens=delta.num_cached_tokens,
                generation_tokens=[
                    s.num_processed if state.embedding is None else 0 for s in state.sequences
                ],
                max_tokens=first.max_length - first.num_prompt_tokens,
            )
        return delta

    def _on_first_token(self, state: _RequestState, sequence: _SequenceState, now: float) -> None:
        """A sequence has its first token, and perhaps its request."""
        times = state.times
        if times.first_token_time is None:
            times.first_token_time = now
            times.first_scheduled_time = sequence.sequence.first_scheduled_time
            self._metrics.on_first_token(
                seconds=now - times.arrival_time,
                prompt_tokens=len(state.request.prompt_token_ids),
                cached_tokens=state.sequences[0].sequence.num_cached_tokens,
            )

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
