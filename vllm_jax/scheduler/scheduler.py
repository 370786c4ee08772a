"""The continuous batcher: which sequences compute how many tokens in the next step, and in which blocks.

Knows token budgets, blocks, slots, order and the stops that can be told from token ids. Does not know models,
devices, text or time limits. One thread calls it; nothing here is locked.

A sequence's way:

    add ─▶ waiting ── admit ──▶ prefilling ── last chunk ──▶ decoding ── stop ──▶ finished
              ▲                     │                           │
              └───── preempt ───────┴───────────────────────────┘          (abort: from everywhere)

Steps overlap: ``schedule`` may be called before ``update`` of earlier batches. What it relies on is that *the
device runs every scheduled batch, in the order of the schedule calls*. Therefore

- a sequence whose last token is pending (sampled by a step in flight) can be scheduled: the token is on the
  device by the time the step runs. Positions are counted here, token values are not needed;
- blocks and slots of a finished, aborted or preempted sequence are handed out again at once, although steps
  in flight still write to them: the next owner's step runs later and writes each position before reading it;
- a sequence that turns out to be finished may have rows in flight; what they sample is dropped in ``update``.

A waiting sequence is admitted only when the blocks for everything it has are free, and gets them all at once.
So a prefill never stalls half-way, and a preempted sequence comes back when there is room for it, not before.
A decode that finds no block preempts the sequence that is last in order; the first in order is never
preempted while others run, and ``add`` has made sure that it can end alone: something always progresses.
"""

from __future__ import annotations

import itertools
import operator
import time
from collections.abc import Iterable
from typing import Literal

from vllm_jax.errors import ConfigError, InvalidRequestError
from vllm_jax.outputs import FinishReason
from vllm_jax.scheduled_batch import ScheduledBatch, ScheduledSequence
from vllm_jax.scheduler.block_allocator import BlockAllocator
from vllm_jax.scheduler.prefix_cache import NEVER, PrefixCache
from vllm_jax.scheduler.queue import WaitingQueue
from vllm_jax.sequence import Sequence, SequenceStatus

_order = operator.attrgetter("order")

_PATIENCE = 0.8
"""How much longer a step may take for a long prompt's sake, as a fraction of the time without it."""
_BACKLOG = 16
"""Sequences that are looked at to see how many long prompts wait: more would change nothing."""


class Scheduler:
    """Owns the sequences' ``status``, ``slot``, ``block_ids`` and counters from ``add`` until they finish.

    Args:
        num_blocks: blocks of the KV cache, numbered from 0.
        block_size: tokens a block holds.
        max_num_seqs: most running sequences; slots are ``0 .. max_num_seqs - 1``.
        max_num_batched_tokens: most tokens of a step.
        max_model_len: most tokens of a sequence, prompt and output.
        policy: "fcfs", or "priority": smaller ``Sequence.priority`` first, then by arrival. Priority orders
            the queue and picks the victims of preemption; running sequences do not yield to waiting ones.
        enable_prefix_caching: share the blocks of equal prefixes.
        enable_chunked_prefill: split prompts over steps. Without it a prompt is computed in one step; only
            a preempted sequence that has outgrown ``max_num_batched_tokens`` is recomputed in several.
        long_prefill_token_threshold: most tokens of one prompt in a step; 0 for no limit of its own.
        free_tokens: where given, prompts that take several steps anyway make room for running sequences. It
            is the number of tokens whose computation takes as long as reading the weights, which a step does
            in any case: a step of ``T`` tokens takes the time of ``free_tokens + T``, attention not counted,
            and a long prompt may add up to 0.8 times that. Where ``n > 2`` long prompts wait for their first
            token, throughput matters more: ``(n - 1) ** 2`` times as much. 0 for no such limit.
        cache_secret: key of the prefix cache's digests; by default random.

    Raises:
        ConfigError: a size is out of range, or a threshold is given without chunked prefill.
    """

    def __init__(
        self,
        *,
        num_blocks: int,
        block_size: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        policy: Literal["fcfs", "priority"] = "fcfs",
        enable_prefix_caching: bool = True,
        enable_chunked_prefill: bool = True,
        long_prefill_token_threshold: int = 0,
        free_tokens: int = 0,
        cache_secret: bytes | None = None,
    ):
        sizes = {
            "number of KV blocks": num_blocks,
            "block size": block_size,
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": max_num_batched_tokens,
            "max_model_len": max_model_len,
        }
        for name, value in sizes.items():
            if value < 1:
                raise ConfigError(f"the {name} must be at least 1, got {value}")
        if policy not in ("fcfs", "priority"):
            raise ConfigError(f"unknown scheduling policy {policy!r}; there are 'fcfs' and 'priority'")
        if long_prefill_token_threshold < 0:
            raise ConfigError("long_prefill_token_threshold must not be negative")
        if long_prefill_token_threshold and not enable_chunked_prefill:
            raise ConfigError("long_prefill_token_threshold needs chunked prefill")
        self.block_size = block_size
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.max_model_len = max_model_len
        self.policy = policy
        self.enable_chunked_prefill = enable_chunked_prefill
        self._max_chunk = long_prefill_token_threshold or max_num_batched_tokens
        self._free_tokens = free_tokens if enable_chunked_prefill else 0
        # Blocks an admission leaves free for the running sequences to grow into.
        self._reserve = max(1, num_blocks // 100)
        self._allocator = BlockAllocator(num_blocks)
        self._cache = PrefixCache(
            self._allocator, block_size, enabled=enable_prefix_caching, secret=cache_secret
        )
        self._waiting = WaitingQueue()
        # Running sequences (dicts serve as ordered sets). While decoding, exactly one token is uncomputed.
        self._prefilling: dict[Sequence, None] = {}
        self._decoding: dict[Sequence, None] = {}
        self._free_slots = list(range(max_num_seqs - 1, -1, -1))
        self._requests: dict[str, list[Sequence]] = {}
        self._numbers = itertools.count()

    # ---------------------------------------------------------------- sequences in and out

    def add(self, seq: Sequence) -> None:
        """Queues ``seq``.

        Raises:
            InvalidRequestError: the sequence could not be served even if it were alone, or carries a
                priority without the priority policy.
        """
        prompt, params = seq.num_prompt_tokens, seq.params
        if seq.priority and self.policy != "priority":
            raise InvalidRequestError(
                f"priority is {seq.priority}, but this server schedules first come first served "
                "(--scheduling-policy priority is not set)",
                "priority",
            )
        if not prompt:
            raise InvalidRequestError("the prompt has no tokens", "prompt")
        if prompt >= self.max_model_len:
            raise InvalidRequestError(
                f"the prompt has {prompt} tokens, which leaves no room for output within the maximum context "
                f"length of {self.max_model_len} tokens",
                "input_tokens",
            )
        if params.max_tokens is not None and params.max_tokens < 1:
            raise InvalidRequestError(f"max_tokens must be at least 1, got {params.max_tokens}", "max_tokens")
        if not self.enable_chunked_prefill and prompt > self.max_num_batched_tokens:
            raise InvalidRequestError(
                f"the prompt has {prompt} tokens, but a step computes at most {self.max_num_batched_tokens} "
                "and chunked prefill is off",
                "input_tokens",
            )
        max_length = self.max_model_len
        if params.max_tokens is not None:
            max_length = min(max_length, prompt + params.max_tokens)
        # The last token is only sampled; its keys and values are never needed.
        blocks = self._num_blocks_for(max_length - 1)
        if blocks > self._allocator.num_blocks:
            raise InvalidRequestError(
                f"the request may come to {max_length} tokens ({prompt} of prompt) and would then need "
                f"{blocks} KV blocks of {self.block_size} tokens; there are {self._allocator.num_blocks}. "
                "Ask for fewer max_tokens or shorten the prompt",
                "max_tokens"
                if self._num_blocks_for(prompt) <= self._allocator.num_blocks
                else "input_tokens",
            )
        by_priority = self.policy == "priority"
        seq.order = (
            seq.priority if by_priority else 0,
            seq.arrival_time if by_priority else 0.0,
            next(self._numbers),
        )
        seq.max_length = max_length
        seq.stopping_token_ids = seq.eos_token_ids.union(params.stop_token_ids)
        seq.needs_host = params.needs_host_tokens
        self._waiting.push(seq)
        self._requests.setdefault(seq.request_id, []).append(seq)

    def abort(self, request_id: str) -> list[Sequence]:
        """Finishes the request's live sequences with "abort" and returns them; none where it is unknown."""
        sequences = list(self._requests.get(request_id, ()))
        for seq in sequences:
            self.finish(seq, "abort")
        return sequences

    def finish(self, seq: Sequence, reason: FinishReason, stop_reason: int | str | None = None) -> None:
        """Ends ``seq`` and frees what it holds at once. Does nothing where it is finished already.

        Tokens it has in flight are dropped when their batch is updated.
        """
        if seq.status is SequenceStatus.FINISHED:
            return
        if seq.status is SequenceStatus.RUNNING:
            self._release(seq)
        else:
            self._waiting.remove(seq)
        seq.status = SequenceStatus.FINISHED
        seq.finish_reason = reason
        seq.stop_reason = stop_reason
        seq.num_pending = 0
        siblings = self._requests[seq.request_id]
        siblings.remove(seq)
        if not siblings:
            del self._requests[seq.request_id]

    # ---------------------------------------------------------------- a step

    def schedule(self) -> ScheduledBatch:
        """Puts the next step together; it is empty where nothing can run now.

        Sequences are changed as if the step were done: tokens count as computed, sampled ones as pending.
        The caller must run every non-empty batch, in order, and pass each to ``update``.
        """
        batch = ScheduledBatch()
        rows = self._schedule_decodes(batch.preempted)
        budget = self.max_num_batched_tokens - len(rows)
        reserved = budget - self._room_for_long_prompts(len(rows), budget)
        chunks: list[ScheduledSequence] = []
        for seq in sorted(self._prefilling, key=_order):
            room = budget - reserved if self._is_long(seq) else budget
            if room > 0:
                chunks.append(self._prefill(seq, room, resumed=False))
                budget -= chunks[-1].num_tokens
        self._admit(chunks, budget, reserved)
        self._cache.commit()
        # One-token chunks look like decodes to the device: they follow those, the sampling ones first.
        chunks.sort(key=lambda row: (row.num_tokens > 1, not row.samples))
        batch.rows = rows + chunks
        batch.num_decodes = len(rows)
        return batch

    def update(self, batch: ScheduledBatch, sampled: Iterable[int | None]) -> list[Sequence]:
        """Takes the tokens that ``batch`` has sampled and returns the sequences that they finish.

        ``sampled`` has one entry a row: an ``int``, or None where the row does not sample. Batches come in
        the order in which they were scheduled. Rows of sequences that have finished meanwhile are skipped.

        A stop token is appended like any other. EOS and stop token ids count from ``min_tokens`` output
        tokens on (before, the sampler masks them); the length limits always count, and yield to a stop on
        the same token.
        """
        finished = []
        done, size = SequenceStatus.FINISHED, self.block_size
        for row, token in zip(batch.rows, sampled, strict=True):
            seq = row.seq
            if token is None or seq.status is done:
                continue
            seq.num_pending -= 1
            output = seq.output_token_ids
            output.append(token)
            if not (row.start + row.num_tokens) % size:
                self._cache.publish(seq)  # all tokens of the block that this row has filled are known now
            if (
                token in seq.stopping_token_ids or len(output) + len(seq.prompt_token_ids) >= seq.max_length
            ) and self._stop(seq, token):
                finished.append(seq)
        return finished

    def _schedule_decodes(self, preempted: list[Sequence]) -> list[ScheduledSequence]:
        """Rows of one token for the decoding sequences; appends to ``preempted`` who had to make room."""
        # Not ready: the last token it may have is in flight, or the next one needs the host to see the last.
        ready = [
            seq
            for seq in self._decoding
            if seq.num_computed_tokens < seq.max_length - 1 and not (seq.needs_host and seq.num_pending)
        ]
        del ready[self.max_num_batched_tokens :]
        size = self.block_size
        growing = [seq for seq in ready if seq.num_computed_tokens == len(seq.block_ids) * size]
        if len(growing) > self._allocator.num_free:
            preempted.extend(self._preempt_for(growing))
            ready = [seq for seq in ready if seq.status is SequenceStatus.RUNNING]
        for seq, block in zip(growing, self._allocator.allocate(len(growing)), strict=True):
            seq.block_ids = [*seq.block_ids, block]  # a new list: rows in flight keep theirs
        rows = []
        for seq in ready:
            start = seq.num_computed_tokens
            seq.num_computed_tokens = start + 1
            seq.num_pending += 1
            rows.append(ScheduledSequence(seq, start, 1, True, seq.slot, seq.block_ids, False))  # type: ignore[arg-type]
        return rows

    def _preempt_for(self, growing: list[Sequence]) -> list[Sequence]:
        """Preempts the last in order until each of ``growing`` can have a block; returns the victims.

        Victims that are themselves growing are taken out of ``growing``.
        """
        victims = []
        while len(growing) > self._allocator.num_free:
            victim = max(itertools.chain(self._decoding, self._prefilling), key=_order)
            self._release(victim)
            victim.num_computed_tokens = 0
            victim.num_preemptions += 1
            victim.status = SequenceStatus.WAITING
            self._waiting.push(victim)
            if victim in growing:
                growing.remove(victim)
            victims.append(victim)
        return victims

    def _room_for_long_prompts(self, num_decodes: int, budget: int) -> int:
        """Most tokens that long prompts may add to a step of ``num_decodes`` tokens; see ``free_tokens``."""
        if not num_decodes or not self._free_tokens:
            return budget
        # Steps are padded to powers of two, with and without a chunk.
        padded = 1 << (num_decodes - 1).bit_length()
        some = itertools.islice(itertools.chain(self._prefilling, self._waiting), _BACKLOG)
        backlog = max(1, sum(map(self._is_long, some)) - 1)
        longest = padded + int(_PATIENCE * (self._free_tokens + padded)) * backlog**2
        size = max(1 << longest.bit_length() - 1, self._free_tokens, 1 << num_decodes.bit_length())
        return min(budget, size - num_decodes)

    def _is_long(self, seq: Sequence) -> bool:
        """Whether the prompt does not fit into one step."""
        return seq.num_tokens - seq.num_cached_tokens > self.max_num_batched_tokens

    def _admit(self, chunks: list[ScheduledSequence], budget: int, reserved: int) -> None:
        """Starts waiting sequences, in order, as long as budget, slots and blocks last.

        ``reserved`` tokens of the budget are not for long prompts: those wait, and others may pass them.
        """
        postponed: list[Sequence] = []
        while budget and self._waiting and len(postponed) < len(self._free_slots):
            seq = self._waiting.peek()
            if seq.num_pending:
                break  # preempted with a token in flight: it must be known to be computed again
            cached, being_filled = self._cache.match(seq)
            if being_filled:
                # Another row of this very step computes what comes next; one step later it is a hit.
                postponed.append(self._waiting.pop())
                continue
            is_long = seq.num_tokens - len(cached) * self.block_size > self.max_num_batched_tokens
            room = budget - reserved if is_long else budget
            if room <= 0 and any(seq.order < row.seq.order for row in chunks):
                room = 1  # It was preempted; from its first token on it goes before the younger ones.
            if room <= 0:
                postponed.append(self._waiting.pop())
                continue
            if not self._has_room(seq, cached, budget):
                break
            self._waiting.pop()
            self._start(seq, cached)
            chunks.append(self._prefill(seq, room, resumed=True))
            budget -= chunks[-1].num_tokens
        for seq in postponed:
            self._waiting.push(seq)

    def _has_room(self, seq: Sequence, cached: list[int], budget: int) -> bool:
        """Whether ``seq`` can start now, given the blocks it finds ``cached``."""
        if not self.enable_chunked_prefill:
            uncomputed = seq.num_tokens - len(cached) * self.block_size
            if budget < uncomputed <= self.max_num_batched_tokens:
                return False
        needed = self._num_blocks_for(seq.num_tokens) - len(cached)
        needed += self._allocator.num_free_of(cached)
        if self._decoding or self._prefilling:
            needed += self._reserve
        return needed <= self._allocator.num_free

    def _start(self, seq: Sequence, cached: list[int]) -> None:
        """Moves ``seq`` from waiting to prefilling, with blocks for all of its tokens."""
        self._allocator.share(cached)
        seq.block_ids = cached + self._allocator.allocate(self._num_blocks_for(seq.num_tokens) - len(cached))
        seq.num_computed_tokens = len(cached) * self.block_size
        seq.num_published_blocks = len(cached)
        seq.slot = self._free_slots.pop()
        seq.status = SequenceStatus.RUNNING
        if seq.first_scheduled_time is None:
            seq.first_scheduled_time = time.monotonic()
            seq.num_cached_tokens = seq.num_computed_tokens
            self._cache.count_lookup(seq, seq.num_cached_tokens)
        self._prefilling[seq] = None

    def _prefill(self, seq: Sequence, budget: int, *, resumed: bool) -> ScheduledSequence:
        """The row of a prefilling sequence's next chunk; after its last one the sequence decodes."""
        start, total = seq.num_computed_tokens, seq.num_tokens
        end = min(total, start + min(budget, self._max_chunk))
        seq.num_computed_tokens = end
        self._cache.stage(seq)
        if end == total:
            seq.num_pending += 1
            del self._prefilling[seq]
            self._decoding[seq] = None
        blocks = seq.block_ids[: self._num_blocks_for(end)]
        assert seq.slot is not None
        return ScheduledSequence(seq, start, end - start, end == total, seq.slot, blocks, resumed)

    def _stop(self, seq: Sequence, token: int) -> bool:
        """Finishes ``seq`` if its last token, ``token``, ends it; says whether it did."""
        if token in seq.stopping_token_ids and seq.num_output_tokens >= seq.params.min_tokens:
            self.finish(seq, "stop", None if token in seq.eos_token_ids else token)
            return True
        if seq.num_prompt_tokens + seq.num_output_tokens >= seq.max_length:
            self.finish(seq, "length")
            return True
        return False

    def _release(self, seq: Sequence) -> None:
        """Takes back blocks and slot of a running sequence."""
        self._decoding.pop(seq, None)
        self._prefilling.pop(seq, None)
        self._allocator.free(seq.block_ids)
        seq.block_ids = []
        assert seq.slot is not None
        self._free_slots.append(seq.slot)
        seq.slot = None

    def _num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    # ---------------------------------------------------------------- what others want to know

    @property
    def has_work(self) -> bool:
        """Whether there are unfinished sequences."""
        return bool(self._requests)

    @property
    def num_running(self) -> int:
        """Admitted sequences."""
        return len(self._prefilling) + len(self._decoding)

    @property
    def num_waiting(self) -> int:
        """Sequences in the queue, preempted ones included."""
        return len(self._waiting)

    @property
    def num_blocks(self) -> int:
        """All KV blocks."""
        return self._allocator.num_blocks

    @property
    def num_free_blocks(self) -> int:
        """Blocks that no sequence holds; they may still serve prefix hits."""
        return self._allocator.num_free

    @property
    def kv_cache_usage(self) -> float:
        """Fraction of the blocks that sequences hold, 0 to 1."""
        return 1 - self._allocator.num_free / self._allocator.num_blocks

    @property
    def prefix_cache_stats(self) -> tuple[int, int]:
        """Tokens looked up in the prefix cache and tokens found there, since the start."""
        return self._cache.num_queried_tokens, self._cache.num_hit_tokens

    def reset_prefix_cache(self) -> bool:
        """Forgets all cached prefixes: no sequence admitted from now on reads what was computed before.

        Returns whether that emptied every block. Otherwise running sequences hold some, which nobody else
        will find and which are emptied as the sequences end.
        """
        self._cache.reset()
        for seq in itertools.chain(self._prefilling, self._decoding):
            seq.num_published_blocks = NEVER
        return self._allocator.num_free == self._allocator.num_blocks

    def check_integrity(self) -> None:
        """AssertionError where sequences, blocks, slots and cache contradict each other (tests call it)."""
        self._allocator.check_integrity()
        self._cache.check_integrity()
        running = [*self._prefilling, *self._decoding]
        references = [0] * self.num_blocks
        for seq in running:
            assert seq.status is SequenceStatus.RUNNING, f"{seq.seq_id} runs as {seq.status}"
            assert seq.num_computed_tokens < seq.num_tokens <= seq.max_length
            assert seq.num_computed_tokens <= len(seq.block_ids) * self.block_size
            assert len(set(seq.block_ids)) == len(seq.block_ids)
            for block in seq.block_ids:
                references[block] += 1
        for seq in self._prefilling:
            assert seq.num_pending == 0
        for seq in self._decoding:
            assert seq.num_computed_tokens == seq.num_tokens - 1
        for seq in self._waiting:
            assert seq.status is SequenceStatus.WAITING, f"{seq.seq_id} waits as {seq.status}"
            assert not seq.block_ids and seq.slot is None and seq.num_computed_tokens == 0
        for block, count in enumerate(references):
            assert self._allocator.num_references(block) == count, f"block {block} has a wrong count"
        slots = [seq.slot for seq in running] + self._free_slots
        assert sorted(slots) == list(range(self.max_num_seqs)), "slots are leaked or shared"  # type: ignore[type-var]
        live = {seq for siblings in self._requests.values() for seq in siblings}
        assert live == {*running, *self._waiting}, "a sequence is lost"
