"""What the scheduler decided for one step: the plain data that travels from the scheduler to the runner."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm_jax.sequence import Sequence


@dataclass(slots=True)
class ScheduledSequence:
    """One row of a step: compute positions ``[start, start + num_tokens)`` of ``seq``.

    ``samples`` says whether the row's last position is the end of what is there, so that the step samples
    the sequence's next token. ``slot``, ``block_ids`` (pages for positions 0 .. start + num_tokens) stay as
    they are when the sequence moves on while the step is in flight. ``resumed`` is True on the first row
    after an admission (first run or after a preemption): the slot's device state must be set up anew.
    """

    seq: Sequence
    start: int
    num_tokens: int
    samples: bool
    slot: int
    block_ids: list[int]
    resumed: bool


@dataclass(slots=True)
class ScheduledBatch:
    """All rows of one step, one at most for each sequence.

    One-token rows come first: decodes, then chunks of one token that sample, then those that do not.
    Longer prefill chunks follow. Every batch that is not empty must be run, in the order of scheduling.
    """

    rows: list[ScheduledSequence] = field(default_factory=list)
    num_decodes: int = 0
    """Leading rows that continue decoding: their input token was sampled in the slot they hold, so that it
    is on the device."""
    preempted: list[Sequence] = field(default_factory=list)
    """Sequences that lost their blocks in this round; for metrics and logs."""

    @property
    def num_tokens(self) -> int:
        """Tokens the step computes; never more than ``max_num_batched_tokens``."""
        return sum(row.num_tokens for row in self.rows)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.rows
