"""A device that notices every wrong page, and the engine loop around it.

The "model" is a hash: its state at a position is a hash of all tokens up to there, and the next token is
drawn from the state, the seed and the position. States and tokens are stored in pages and read back through
the block table, as keys and values are. A page that was handed out twice, read too early or shared wrongly
changes a state or raises. :func:`expected` computes the same completion without pages and without batches.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import count

from vllm_jax.sampling_params import SamplingParams
from vllm_jax.scheduled_batch import ScheduledBatch, ScheduledSequence
from vllm_jax.scheduler.scheduler import Scheduler
from vllm_jax.sequence import Sequence

VOCAB = 32
EOS = frozenset({0})
_MASK = (1 << 61) - 1
_numbers = count()


def make_sequence(
    prompt: list[int],
    *,
    request_id: str | None = None,
    index: int = 0,
    seed: int = 0,
    eos: frozenset[int] = EOS,
    priority: int = 0,
    cache_salt: str | None = None,
    arrival_time: float = 0.0,
    **params: object,
) -> Sequence:
    number = next(_numbers)
    request_id = request_id or f"request-{number}"
    return Sequence(
        seq_id=f"{request_id}/{index}/{number}",
        request_id=request_id,
        index=index,
        prompt_token_ids=list(prompt),
        params=SamplingParams(**params),
        seed=seed,
        eos_token_ids=eos,
        priority=priority,
        cache_salt=cache_salt,
        arrival_time=arrival_time,
    )


def mix(state: int, token: int) -> int:
    state = (state ^ (token + 0x9E3779B9)) * 0x2545F4914F6CDD1D & _MASK
    return state ^ (state >> 29)


def draw(seq: Sequence, state: int, position: int) -> int:
    """The token at ``position``, given the state after all tokens before it."""
    value = mix(mix(state, seq.seed), position)
    if position - seq.num_prompt_tokens >= seq.params.min_tokens:
        return value % VOCAB
    allowed = [t for t in range(VOCAB) if t not in seq.eos_token_ids and t not in seq.params.stop_token_ids]
    return allowed[value % len(allowed)]


def expected(seq: Sequence, max_model_len: int) -> tuple[list[int], str, int | None]:
    """Output tokens, finish reason and stop reason that ``seq`` must come to, whatever runs beside it."""
    state = 0
    for token in seq.prompt_token_ids:
        state = mix(state, token)
    output: list[int] = []
    while True:
        output.append(draw(seq, state, seq.num_prompt_tokens + len(output)))
        state = mix(state, output[-1])
        if len(output) >= seq.params.min_tokens:
            if output[-1] in seq.eos_token_ids:
                return output, "stop", None
            if output[-1] in seq.params.stop_token_ids:
                return output, "stop", output[-1]
        if len(output) == seq.params.max_tokens or seq.num_prompt_tokens + len(output) == max_model_len:
            return output, "length", None


class FakeDevice:
    """Pages of tokens and states, one "last sampled token" a slot."""

    def __init__(self, num_blocks: int, block_size: int, num_slots: int):
        self.block_size = block_size
        self.tokens = [[-1] * block_size for _ in range(num_blocks)]
        self.states = [[-1] * block_size for _ in range(num_blocks)]
        self.last_token = [-1] * num_slots
        self.truth: dict[Sequence, list[int]] = {}
        self.num_computed = 0

    def execute(self, batch: ScheduledBatch) -> list[int | None]:
        """Runs one step. All rows read the pages as they were before it, plus what they write themselves."""
        size = self.block_size
        writer: dict[int, Sequence] = {}
        for row in batch.rows:
            for block in row.block_ids[row.start // size :]:
                assert writer.setdefault(block, row.seq) is row.seq, f"two rows write to block {block}"
        for row in batch.rows:
            for block in row.block_ids:
                assert writer.get(block, row.seq) is row.seq, f"block {block} is read and written in one step"
        results = [self._run(row) for row in batch.rows]
        for row, (states, tokens, sampled) in zip(batch.rows, results, strict=True):
            for i in range(row.num_tokens):
                block, offset = divmod(row.start + i, size)
                self.tokens[row.block_ids[block]][offset] = tokens[i]
                self.states[row.block_ids[block]][offset] = states[i]
            self.num_computed += row.num_tokens
            if sampled is not None:
                self.last_token[row.slot] = sampled
                self.truth[row.seq].append(sampled)
        return [sampled for _, _, sampled in results]

    def _run(self, row: ScheduledSequence) -> tuple[list[int], list[int], int | None]:
        seq, start, stop = row.seq, row.start, row.start + row.num_tokens
        truth = self.truth.setdefault(seq, list(seq.prompt_token_ids))
        assert len(row.block_ids) == -(-stop // self.block_size)
        assert row.samples == (stop == len(truth)), "a row samples exactly at the end of its sequence"
        if row.resumed:
            self.last_token[row.slot] = -1
        tokens = seq.known_tokens(start, stop)
        if len(tokens) < row.num_tokens:
            assert row.num_tokens == 1, "only a decode may take its token from the device"
            assert not seq.params.needs_host_tokens
            tokens = [self.last_token[row.slot]]
        assert tokens == truth[start:stop], "wrong input tokens"
        context = [token for block in row.block_ids for token in self.tokens[block]][:start]
        assert context == truth[:start], "the pages hold another context"
        state = 0
        if start:
            block, offset = divmod(start - 1, self.block_size)
            state = self.states[row.block_ids[block]][offset]
        states = []
        for token in tokens:
            state = mix(state, token)
            states.append(state)
        return states, tokens, draw(seq, state, stop) if row.samples else None


@dataclass
class Loop:
    """The engine's loop: up to ``depth`` steps are dispatched before the oldest is read."""

    scheduler: Scheduler
    depth: int = 1
    check: bool = True
    finished: list[Sequence] = field(default_factory=list)
    num_steps: int = 0
    num_preemptions: int = 0

    def __post_init__(self) -> None:
        s = self.scheduler
        self.device = FakeDevice(s.num_blocks, s.block_size, s.max_num_seqs)
        self.in_flight: deque[tuple[ScheduledBatch, list[int | None]]] = deque()

    def dispatch(self) -> bool:
        """Schedules and runs a step; False where there was nothing to run."""
        s = self.scheduler
        batch = s.schedule()
        self.num_preemptions += len(batch.preempted)
        self.verify(batch)
        if batch.empty:
            return False
        self.num_steps += 1
        self.in_flight.append((batch, self.device.execute(batch)))
        return True

    def read(self) -> list[Sequence]:
        """Hands the oldest step's tokens to the scheduler; returns who they finished."""
        finished = self.scheduler.update(*self.in_flight.popleft())
        self.finished.extend(finished)
        if self.check:
            self.scheduler.check_integrity()
        return finished

    def step(self) -> list[Sequence]:
        dispatched = self.dispatch()
        if self.in_flight and (not dispatched or len(self.in_flight) >= self.depth):
            return self.read()
        assert dispatched or not self.scheduler.has_work, "work, but nothing runs"
        return []

    def run(self, max_steps: int = 100_000) -> None:
        """Steps until nothing is left."""
        for _ in range(max_steps):
            if not self.scheduler.has_work and not self.in_flight:
                return
            self.step()
        raise AssertionError(f"not done after {max_steps} steps")

    def verify(self, batch: ScheduledBatch) -> None:
        s, rows = self.scheduler, batch.rows
        assert batch.num_tokens <= s.max_num_batched_tokens, "over budget"
        assert len(rows) <= s.max_num_seqs and s.num_running <= s.max_num_seqs, "too many sequences"
        assert len({row.slot for row in rows}) == len(rows) == len({row.seq for row in rows})
        assert all(0 <= row.slot < s.max_num_seqs and row.num_tokens > 0 for row in rows)
        ranks = [2 if row.num_tokens > 1 else not row.samples for row in rows]
        assert ranks == sorted(ranks), "one-token rows come first"
        if self.check:
            s.check_integrity()
