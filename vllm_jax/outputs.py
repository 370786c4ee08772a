"""What a request gets back. Knows no engine, no HTTP.

The engine produces *deltas*: each :class:`RequestOutput` carries what is new since the last one.
:meth:`RequestOutput.merge` folds a later delta into an earlier one, so that the same class is a stream's
chunk, a slow reader's backlog and the final answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(slots=True)
class Logprob:
    """One candidate at one position: natural-log probability, 1-based rank, decoded text of the token."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


PositionLogprobs = dict[int, Logprob]
"""Token id -> Logprob. The sampled (or prompt) token comes first, then the top candidates by rank."""


@dataclass(slots=True)
class CompletionOutput:
    """One of a request's ``n`` sequences.

    ``logprobs`` has one entry for each of ``token_ids`` where logprobs were asked for, else is None.
    ``cumulative_logprob`` is the sum over all tokens so far (not a delta), where logprobs were asked for.
    ``stop_reason`` is the stop string or the stop token id that ended the sequence, or None.
    """

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[PositionLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None

    @property
    def finished(self) -> bool:
        """Whether no more will come for this sequence."""
        return self.finish_reason is not None

    def merge(self, later: CompletionOutput) -> None:
        """Appends ``later``, a delta of the same sequence, to this output (mutated)."""
        # Nobody else holds the text while it grows: so CPython extends it in place instead of copying it.
        text, self.text = self.text, ""
        text += later.text
        self.text = text
        self.token_ids.extend(later.token_ids)
        if later.logprobs is not None:
            self.logprobs = self.logprobs or []
            self.logprobs.extend(later.logprobs)
        self.cumulative_logprob = later.cumulative_logprob
        self.finish_reason = later.finish_reason
        self.stop_reason = later.stop_reason


@dataclass(slots=True)
class RequestMetrics:
    """Times of one request in seconds of ``time.monotonic()``; None where it has not come to that yet."""

    arrival_time: float = 0.0
    first_scheduled_time: float | None = None
    first_token_time: float | None = None
    last_token_time: float | None = None
    finished_time: float | None = None
    num_preemptions: int = 0


@dataclass(slots=True)
class RequestOutput:
    """A delta, or after merging the whole, of one request's answer.

    ``outputs`` holds only the sequences that have something new, in index order. ``prompt_logprobs`` comes
    once, in the first delta: None for the first prompt token, then one dict a position. ``embedding`` is the
    prompt's, ``[H]`` float32, where it was asked for.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    prompt_logprobs: list[PositionLogprobs | None] | None = None
    num_cached_tokens: int = 0
    metrics: RequestMetrics | None = None
    embedding: np.ndarray | None = None

    def merge(self, later: RequestOutput) -> None:
        """Appends ``later``, a delta of the same request, to this output (mutated)."""
        mine = {o.index: o for o in self.outputs}
        for new in later.outputs:
            if new.index in mine:
                mine[new.index].merge(new)
            else:
                mine[new.index] = new
        self.outputs = [mine[i] for i in sorted(mine)]
        self.finished = later.finished
        if later.prompt_logprobs is not None:
            self.prompt_logprobs = later.prompt_logprobs
        if later.embedding is not None:
            self.embedding = later.embedding
        self.num_cached_tokens = max(self.num_cached_tokens, later.num_cached_tokens)
        self.metrics = later.metrics


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """One prompt's embedding, ``[H]``."""

    embedding: list[float]


@dataclass(frozen=True, slots=True)
class EmbeddingRequestOutput:
    """What :meth:`LLM.embed` gives for one prompt."""

    request_id: str
    prompt_token_ids: list[int]
    outputs: EmbeddingOutput
