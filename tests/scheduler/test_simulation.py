"""Thousands of requests through scheduler and fake device: the same tokens, whatever happens on the way."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from fake_device import VOCAB, Loop, expected, make_sequence

from vllm_jax.scheduler.scheduler import Scheduler
from vllm_jax.sequence import Sequence

MAX_LEN = 96
BASE = {
    "block_size": 4,
    "max_num_seqs": 12,
    "max_num_batched_tokens": 40,
    "max_model_len": MAX_LEN,
}
ROOMY, TIGHT = 2000, 30
"""Numbers of blocks: never a preemption, and barely more than the longest sequence needs."""


@dataclass
class Workload:
    """Requests by the step in which they arrive, and the steps after which some are aborted."""

    arrivals: list[tuple[int, Sequence]] = field(default_factory=list)
    aborts: list[tuple[int, str]] = field(default_factory=list)

    @classmethod
    def make(cls, seed: int, count: int, *, aborts: bool = False, priorities: bool = False) -> Workload:
        """A mix of chats that share system prompts, follow-up turns, siblings and unrelated prompts."""
        rng = random.Random(seed)
        systems = [[rng.randrange(VOCAB) for _ in range(rng.randrange(5, 30))] for _ in range(4)]
        work = cls()
        step = 0
        earlier: list[Sequence] = []
        for number in range(count):
            step += rng.choice([0, 0, 2, 8])
            prompt = rng.choice(systems) + [rng.randrange(VOCAB) for _ in range(rng.randrange(1, 20))]
            if earlier and rng.random() < 0.2:
                before = rng.choice(earlier)
                prompt = before.prompt_token_ids + expected(before, MAX_LEN)[0] + prompt[-3:]
            prompt = prompt[: MAX_LEN - 10] if rng.random() < 0.9 else prompt[-1:]
            special = rng.choice([{}] * 6 + [{"bad_words": ["x"]}, {"prompt_logprobs": 0}])
            max_tokens = rng.choice([1, 5, 30, None])
            params = {
                "max_tokens": max_tokens,
                "min_tokens": min(rng.choice([0, 0, 4]), max_tokens or 4),
                "stop_token_ids": rng.sample(range(VOCAB), rng.choice([0, 0, 2])),
                **special,
            }
            priority = rng.randrange(3) if priorities else 0
            eos = frozenset(rng.choice([[0], [0, 1], []]))
            salt = rng.choice([None] * 5 + ["salt"])
            for index in range(rng.choice([1, 1, 1, 3])):
                seq = make_sequence(
                    prompt,
                    request_id=f"r{number}",
                    index=index,
                    seed=rng.randrange(1000),
                    priority=priority,
                    cache_salt=salt,
                    arrival_time=float(number),
                    eos=eos,
                    **params,
                )
                work.arrivals.append((step, seq))
                earlier.append(seq)
            if aborts and rng.random() < 0.2:
                work.aborts.append((step + rng.randrange(100), f"r{number}"))
        work.aborts.sort()
        return work

    def run(self, loop: Loop, *, oldest_progresses: bool = False) -> None:
        """Plays the workload; with ``oldest_progresses``, the oldest request must advance all the time."""
        arrivals, aborts = list(reversed(self.arrivals)), list(reversed(self.aborts))
        unfinished: dict[Sequence, None] = {}
        oldest, progress, stalled = None, (0, 0), 0
        # One after the other would take this many steps.
        serial = sum(s.num_prompt_tokens // 8 + (loop.depth + 1) * MAX_LEN for _, s in self.arrivals)
        now = 0
        while arrivals or loop.scheduler.has_work or loop.in_flight:
            while arrivals and arrivals[-1][0] <= now:
                seq = arrivals.pop()[1]
                loop.scheduler.add(seq)
                unfinished[seq] = None
            while aborts and aborts[-1][0] <= now:
                for seq in loop.scheduler.abort(aborts.pop()[1]):
                    del unfinished[seq]
            for seq in loop.step():
                del unfinished[seq]
            if oldest_progresses and unfinished:
                first = next(iter(unfinished))
                state = (first.num_output_tokens, first.num_computed_tokens)
                stalled = stalled + 1 if (first, state) == (oldest, progress) else 0
                oldest, progress = first, state
                assert stalled <= loop.depth, "the oldest request starves"
            now += 1
            assert now < serial, "slower than one request after the other"

    def check(self, loop: Loop) -> None:
        """Nothing is left behind, and every request got its own tokens."""
        loop.scheduler.check_integrity()
        assert loop.scheduler.num_free_blocks == loop.scheduler.num_blocks, "blocks are leaked"
        assert loop.scheduler.num_running == loop.scheduler.num_waiting == 0
        for _, seq in self.arrivals:
            tokens, reason, stop_reason = expected(seq, MAX_LEN)
            if seq.finish_reason == "abort":
                assert seq.output_token_ids == tokens[: seq.num_output_tokens]
            else:
                assert seq.output_token_ids == tokens
                assert (seq.finish_reason, seq.stop_reason) == (reason, stop_reason)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("num_blocks", [ROOMY, TIGHT])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_num_batched_tokens": 4096},
        {"max_num_batched_tokens": 13, "long_prefill_token_threshold": 5},
        {"free_tokens": 4},
        {"max_num_batched_tokens": MAX_LEN, "enable_chunked_prefill": False},
    ],
    ids=["chunked", "whole", "threshold", "room", "unchunked"],
)
def test_the_same_tokens_whatever_the_batching(changes, num_blocks, caching, depth):
    work = Workload.make(seed=1, count=120)
    scheduler = Scheduler(**(BASE | changes), num_blocks=num_blocks, enable_prefix_caching=caching)
    loop = Loop(scheduler, depth=depth, check=num_blocks == TIGHT)
    work.run(loop, oldest_progresses=True)
    work.check(loop)
    assert (loop.num_preemptions > 0) == (num_blocks == TIGHT), "the setting does not test what it should"
    assert (scheduler.prefix_cache_stats[1] > 0) == caching


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_thousands_of_requests_with_aborts(depth):
    work = Workload.make(seed=10 + depth, count=1500, aborts=True)
    scheduler = Scheduler(**BASE, num_blocks=80)
    loop = Loop(scheduler, depth=depth)
    work.run(loop, oldest_progresses=True)
    work.check(loop)
    assert loop.num_preemptions > 20
    assert any(seq.finish_reason == "abort" and seq.output_token_ids for _, seq in work.arrivals)


@pytest.mark.parametrize("depth", [1, 2])
def test_priority_policy(depth):
    work = Workload.make(seed=20 + depth, count=400, aborts=True, priorities=True)
    scheduler = Scheduler(**BASE, num_blocks=60, policy="priority")
    loop = Loop(scheduler, depth=depth)
    work.run(loop)
    work.check(loop)
    assert loop.num_preemptions > 10


def test_fewer_tokens_than_sequences():
    work = Workload.make(seed=30, count=150, aborts=True)
    scheduler = Scheduler(**(BASE | {"max_num_batched_tokens": 3}), num_blocks=200)
    loop = Loop(scheduler, depth=2)
    work.run(loop)
    work.check(loop)


def test_preemption_is_rare_and_costs_little():
    """No thrashing: what is computed twice stays a fraction of the work even when blocks are scarce."""
    computed = []
    for num_blocks in (ROOMY, 60):
        work = Workload.make(seed=40, count=300)
        loop = Loop(Scheduler(**BASE, num_blocks=num_blocks, enable_prefix_caching=False), check=False)
        work.run(loop)
        work.check(loop)
        computed.append(loop.device.num_computed)
    assert loop.num_preemptions > 0
    assert computed[0] < computed[1] < 1.25 * computed[0]


def test_shared_prefixes_are_computed_once():
    computed = []
    for caching in (True, False):
        work = Workload.make(seed=50, count=300)
        scheduler = Scheduler(**BASE, num_blocks=ROOMY, enable_prefix_caching=caching)
        loop = Loop(scheduler, depth=2, check=False)
        work.run(loop)
        work.check(loop)
        computed.append(loop.device.num_computed)
    assert computed[0] < 0.7 * computed[1]
