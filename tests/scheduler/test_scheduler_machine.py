"""Random walks over the whole scheduler with a device that notices wrong pages (see fake_device.py)."""

from __future__ import annotations

from fake_device import Loop, expected, make_sequence
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vllm_jax.errors import InvalidRequestError
from vllm_jax.scheduler.scheduler import Scheduler

MAX_LEN = 24

configs = st.fixed_dictionaries(
    {
        "num_blocks": st.integers(3, 14),
        "block_size": st.integers(1, 4),
        "max_num_seqs": st.integers(1, 5),
        "max_num_batched_tokens": st.integers(1, 12),
        "policy": st.sampled_from(["fcfs", "priority"]),
        "enable_prefix_caching": st.booleans(),
        "enable_chunked_prefill": st.booleans(),
    }
)


class SchedulerMachine(RuleBasedStateMachine):
    """Requests arrive, steps are dispatched and read, requests are aborted or end on a stop string."""

    @initialize(config=configs)
    def start(self, config):
        threshold = config["max_num_batched_tokens"] % 4 if config["enable_chunked_prefill"] else 0
        self.scheduler = Scheduler(max_model_len=MAX_LEN, long_prefill_token_threshold=threshold, **config)
        self.loop = Loop(self.scheduler)
        self.added = []
        self.number = 0

    @rule(
        prompt=st.lists(st.integers(1, 2), min_size=1, max_size=14),
        copies=st.integers(1, 3),
        seed=st.integers(0, 1),
        priority=st.integers(-1, 1),
        salt=st.sampled_from([None, None, "salt"]),
        max_tokens=st.one_of(st.none(), st.integers(1, 12)),
        min_tokens=st.integers(0, 3),
        stops=st.lists(st.integers(0, 31), max_size=2),
        special=st.sampled_from([{}, {}, {}, {"prompt_logprobs": 0}, {"bad_words": ["x"]}]),
    )
    def add(self, prompt, copies, seed, priority, salt, max_tokens, min_tokens, stops, special):
        self.number += 1
        for index in range(copies):
            seq = make_sequence(
                prompt,
                request_id=f"r{self.number}",
                index=index,
                seed=seed + index,
                priority=priority if self.scheduler.policy == "priority" else 0,
                cache_salt=salt,
                arrival_time=float(self.number),
                max_tokens=max_tokens,
                min_tokens=min(min_tokens, max_tokens or 3),
                stop_token_ids=stops,
                **special,
            )
            try:
                self.scheduler.add(seq)
            except InvalidRequestError:
                longest = min(MAX_LEN, len(prompt) + (max_tokens or MAX_LEN)) - 1
                assert (
                    longest > self.scheduler.num_blocks * self.scheduler.block_size
                    or len(prompt) > self.scheduler.max_num_batched_tokens
                )
                return
            self.added.append(seq)

    def pick(self, data):
        return self.added[data.draw(st.integers(0, len(self.added) - 1))]

    @precondition(lambda self: len(self.loop.in_flight) < 3)
    @rule()
    def dispatch(self):
        self.loop.dispatch()

    @precondition(lambda self: self.loop.in_flight)
    @rule()
    def read(self):
        self.loop.read()

    @precondition(lambda self: self.added)
    @rule(data=st.data())
    def abort(self, data):
        self.scheduler.abort(self.pick(data).request_id)

    @precondition(lambda self: self.added)
    @rule(data=st.data())
    def stop_string(self, data):
        self.scheduler.finish(self.pick(data), "stop", "\n")

    @rule()
    def reset_prefix_cache(self):
        self.scheduler.reset_prefix_cache()

    @invariant()
    def sound(self):
        if hasattr(self, "scheduler"):
            self.scheduler.check_integrity()

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        self.loop.run(max_steps=3000)
        self.scheduler.check_integrity()
        assert self.scheduler.num_free_blocks == self.scheduler.num_blocks, "blocks are leaked"
        for seq in self.added:
            tokens, reason, stop_reason = expected(seq, MAX_LEN)
            if seq.finish_reason == "abort" or seq.stop_reason == "\n":
                assert seq.output_token_ids == tokens[: seq.num_output_tokens]
            else:
                assert seq.output_token_ids == tokens
                assert (seq.finish_reason, seq.stop_reason) == (reason, stop_reason)


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
