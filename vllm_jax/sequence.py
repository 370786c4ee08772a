"""A sequence: one prompt on its way to one completion, and the place where its state lives.

Knows token ids, counters and its blocks. Does not know who changes them: the scheduler owns ``status``,
``slot``, ``block_ids`` and the counters; the output processor reads the tokens.

    prompt_token_ids            output_token_ids      pending
    |---------------------------|---------------------|--------|
    |--------- num_computed_tokens -------|                       KV written, or dispatched to be written

*Pending* tokens have been sampled by a step that is dispatched but not read yet: they exist on the device
only. A sequence is ready to sample its next token when ``num_computed_tokens`` reaches ``num_tokens``.
"""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, field
from typing import Any

from vllm_jax.outputs import FinishReason
from vllm_jax.sampling_params import SamplingParams

Order = tuple[int, float, int]
"""Place in the queue and, among the running, rank: priority, arrival time, number. Smaller goes first."""


class SequenceStatus(enum.Enum):
    """Where a sequence is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(eq=False, slots=True)
class Sequence:
    """One prompt and its growing completion (``eq=False``: sequences are compared by identity).

    ``seq_id`` is unique in the engine; ``request_id`` is shared by the ``n`` sequences of a request and
    ``index`` tells them apart. ``seed`` is the sequence's own sampling seed (64-bit unsigned).
    ``eos_token_ids`` is empty where EOS does not stop (``ignore_eos``). ``token_constraints`` is what the
    sampler's token mask is made of (see ``sampling/mask.py``), or None where any token may come. ``grammar``
    is how far a structured output has come (see ``structured_output/grammar.py``), or None; its ``mask``
    ``[W]`` uint32 are the tokens that may come next.
    """

    seq_id: str
    request_id: str
    index: int
    prompt_token_ids: list[int]
    params: SamplingParams
    seed: int
    eos_token_ids: frozenset[int] = frozenset()
    token_constraints: Any = None
    grammar: Any = None
    priority: int = 0
    cache_salt: str | None = None
    arrival_time: float = field(default_factory=time.monotonic)

    output_token_ids: list[int] = field(default_factory=list)
    num_pending: int = 0
    num_computed_tokens: int = 0
    num_cached_tokens: int = 0
    """Prompt tokens found in the prefix cache at the first admission."""
    num_preemptions: int = 0
    block_ids: list[int] = field(default_factory=list)
    """Page of every ``block_size`` tokens, in order. Replaced and never changed: rows in flight hold it."""
    slot: int | None = None
    """Row of the per-sequence device state, while running."""
    status: SequenceStatus = SequenceStatus.WAITING
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    first_scheduled_time: float | None = None

    # What Scheduler.add works out once, so that a step is a few comparisons a sequence.
    order: Order = (0, 0.0, 0)
    max_length: int = 0
    """Most tokens, prompt and output together, the sequence may come to."""
    stopping_token_ids: frozenset[int] = frozenset()
    """EOS and stop token ids in one set."""
    needs_host: bool = False
    """Whether the step that samples a token must know all tokens before it on the host (no pending ones)."""

    # The prefix cache's notes.
    block_keys: list[bytes] = field(default_factory=list)
    """Keys of the full blocks of known tokens, as far as they were needed."""
    num_published_blocks: int = 0
    """Leading blocks that need no publishing any more."""

    @property
    def num_prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.prompt_token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Output tokens the host knows."""
        return len(self.output_token_ids)

    @property
    def num_tokens(self) -> int:
        """Prompt, output and pending tokens."""
        return len(self.prompt_token_ids) + len(self.output_token_ids) + self.num_pending

    @property
    def finished(self) -> bool:
        """Whether the sequence has ended, for whatever reason."""
        return self.status is SequenceStatus.FINISHED

    def known_tokens(self, start: int, stop: int) -> list[int]:
        """Token ids in positions ``[start, stop)`` that the host knows; shorter where the end is pending."""
        prompt = len(self.prompt_token_ids)
        head = self.prompt_token_ids[start:stop]
        tail = self.output_token_ids[max(0, start - prompt) : max(0, stop - prompt)]
        return head + tail
