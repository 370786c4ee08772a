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

from vllm_jax.outputs import FinishReason
from vllm_jax.sampling_params import SamplingParams


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
    ``eos_token_ids`` is empty where EOS does not stop (``ignore_eos``).
    """

    seq_id: str
    request_id: str
    index: int
    prompt_token_ids: list[int]
    params: SamplingParams
    seed: int
    eos_token_ids: frozenset[int] = frozenset()
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
    """Page of every ``block_size`` tokens, in order."""
    slot: int | None = None
    """Row of the per-sequence device state, while running."""
    status: SequenceStatus = SequenceStatus.WAITING
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    first_scheduled_time: float | None = None

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
