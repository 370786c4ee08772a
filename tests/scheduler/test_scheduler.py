from __future__ import annotations

import pytest
from fake_device import Loop, expected, make_sequence

from vllm_jax.errors import ConfigError, InvalidRequestError
from vllm_jax.scheduler.scheduler import Scheduler
from vllm_jax.sequence import SequenceStatus

ENDLESS = {"eos": frozenset()}


def make(**changes):
    settings = {
        "num_blocks": 64,
        "block_size": 4,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 16,
        "max_model_len": 64,
    }
    return Scheduler(**(settings | changes))


def shape(batch):
    return [(row.start, row.num_tokens, row.samples) for row in batch.rows]


def tokens_for(batch, token=5):
    return [token if row.samples else None for row in batch.rows]


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_blocks": 0}, "number of KV blocks"),
        ({"max_num_seqs": 0}, "max_num_seqs"),
        ({"policy": "lottery"}, "lottery"),
        ({"long_prefill_token_threshold": -1}, "long_prefill_token_threshold"),
        ({"long_prefill_token_threshold": 4, "enable_chunked_prefill": False}, "needs chunked prefill"),
    ],
)
def test_bad_settings(changes, text):
    with pytest.raises(ConfigError, match=text):
        make(**changes)


@pytest.mark.parametrize(
    ("changes", "prompt", "params", "field", "text"),
    [
        ({}, [], {}, "prompt", "no tokens"),
        ({}, [1] * 64, {}, "input_tokens", "64 tokens"),
        ({"enable_chunked_prefill": False}, [1] * 17, {}, "input_tokens", "at most 16"),
        (
            {"num_blocks": 4},
            [1] * 10,
            {"max_tokens": 8},
            "max_tokens",
            "5 KV blocks of 4 tokens; there are 4",
        ),
        ({"num_blocks": 4}, [1] * 17, {"max_tokens": 1}, "input_tokens", "there are 4"),
        ({"num_blocks": 4}, [1], {"max_tokens": None}, "max_tokens", "there are 4"),
        ({}, [1], {"priority": 1}, "priority", "first come first served"),
    ],
)
def test_requests_that_can_never_be_served(changes, prompt, params, field, text):
    scheduler = make(**changes)
    with pytest.raises(InvalidRequestError, match=text) as error:
        scheduler.add(make_sequence(prompt, **params))
    assert error.value.param == field
    assert not scheduler.has_work
    scheduler.check_integrity()


def test_the_largest_request_that_fits_is_served():
    scheduler = make(num_blocks=4)
    seq = make_sequence([1] * 10, max_tokens=7, **ENDLESS)  # 17 tokens; the last one needs no block
    scheduler.add(seq)
    Loop(scheduler).run()
    assert seq.num_output_tokens == 7


# ------------------------------------------------------------------ steps


def test_long_prompts_are_split_over_steps_beside_decodes():
    scheduler = make()
    scheduler.add(make_sequence([1, 2, 3], **ENDLESS))
    first = scheduler.schedule()
    assert shape(first) == [(0, 3, True)]
    assert first.rows[0].resumed
    scheduler.update(first, [7])
    long = make_sequence(range(40), **ENDLESS)
    scheduler.add(long)
    shapes = []
    for _ in range(4):
        batch = scheduler.schedule()
        shapes.append(shape(batch))
        scheduler.update(batch, tokens_for(batch))
    assert shapes == [
        [(3, 1, True), (0, 15, False)],
        [(4, 1, True), (15, 15, False)],
        [(5, 1, True), (30, 10, True)],
        [(6, 1, True), (40, 1, True)],
    ]
    assert long.output_token_ids == [5, 5]


def test_rows_have_just_the_pages_they_need_and_keep_them():
    scheduler = make()
    seq = make_sequence(range(18), **ENDLESS)
    scheduler.add(seq)
    batch = scheduler.schedule()
    assert len(seq.block_ids) == 5
    assert batch.rows[0].block_ids == seq.block_ids[:4]
    scheduler.update(batch, [None])
    scheduler.update(scheduler.schedule(), [1])
    row = scheduler.schedule().rows[0]
    assert row.block_ids == seq.block_ids
    assert not row.resumed
    then = row.block_ids.copy()
    for _ in range(4):
        scheduler.update(scheduler.schedule(), [1])
    assert len(seq.block_ids) > len(then) == len(row.block_ids)
    scheduler.finish(seq, "abort")
    assert row.block_ids == then


def test_the_threshold_caps_the_share_of_one_prompt():
    scheduler = make(long_prefill_token_threshold=6)
    scheduler.add(make_sequence(range(20)))
    scheduler.add(make_sequence(range(30, 50)))
    assert shape(scheduler.schedule()) == [(0, 6, False), (0, 6, False)]
    assert shape(scheduler.schedule()) == [(6, 6, False), (6, 6, False)]


def test_a_long_prompt_makes_room_for_running_sequences_and_short_ones_pass():
    scheduler = make(free_tokens=4)
    long = make_sequence(range(40), **ENDLESS)
    scheduler.add(make_sequence([1, 2], max_tokens=60, **ENDLESS))
    scheduler.update(scheduler.schedule(), [5])
    scheduler.add(long)
    scheduler.add(make_sequence(range(20, 50), **ENDLESS))
    assert shape(scheduler.schedule()) == [(2, 1, True), (0, 3, False)], (
        "1 + 0.8 (4 + 1) tokens, down to a power of two"
    )
    scheduler.add(make_sequence(range(60, 69), max_tokens=50, **ENDLESS))
    assert shape(scheduler.schedule()) == [(3, 1, True), (0, 9, True), (3, 3, False)]
    assert shape(scheduler.schedule()) == [(4, 1, True), (9, 1, True), (6, 2, False)]
    assert scheduler.num_waiting == 1, "the second long one"
    while long in scheduler._prefilling:
        assert sum(row.num_tokens for row in scheduler.schedule().rows) <= 4
    scheduler.schedule()
    assert scheduler.num_waiting == 0, "it begins when the first is done"


def test_a_long_prompt_has_the_step_to_itself_where_nothing_decodes():
    scheduler = make(free_tokens=4)
    scheduler.add(make_sequence(range(40), **ENDLESS))
    assert shape(scheduler.schedule()) == [(0, 16, False)]


def test_a_backlog_of_prompts_gets_larger_chunks():
    scheduler = make(free_tokens=4, max_num_batched_tokens=32, num_blocks=200)
    scheduler.add(make_sequence([1, 2], **ENDLESS))
    scheduler.update(scheduler.schedule(), [5])
    tokens = []
    for number in range(1, 4):
        scheduler.add(make_sequence(range(100 * number, 100 * number + 50), **ENDLESS))
        tokens.append(sum(row.num_tokens for row in scheduler.schedule().rows))
    assert tokens == [4, 4, 16], "1 + 0.8 (4 + 1) tokens, and with three waiting 1 + 4 x 0.8 (4 + 1)"


def test_a_long_prompt_progresses_beside_many_decodes():
    scheduler = make(free_tokens=1, max_num_seqs=8)
    for token in range(7):
        scheduler.add(make_sequence([token], **ENDLESS))
    scheduler.update(scheduler.schedule(), [5] * 7)
    scheduler.add(make_sequence(range(40), **ENDLESS))
    assert shape(scheduler.schedule())[7:] == [(0, 1, False)]


def test_without_chunked_prefill_a_prompt_waits_for_a_step_with_room():
    scheduler = make(enable_chunked_prefill=False)
    scheduler.add(make_sequence(range(10)))
    scheduler.add(make_sequence(range(20, 30)))
    batch = scheduler.schedule()
    assert shape(batch) == [(0, 10, True)]
    scheduler.update(batch, [5])
    assert shape(scheduler.schedule()) == [(10, 1, True), (0, 10, True)]


def test_decodes_come_first_then_short_chunks_then_long_ones():
    scheduler = make(long_prefill_token_threshold=4)
    scheduler.add(make_sequence([1, 2], **ENDLESS))
    scheduler.update(scheduler.schedule(), [5])
    scheduler.add(make_sequence([3] * 9, **ENDLESS))
    scheduler.add(make_sequence([4], **ENDLESS))
    scheduler.add(make_sequence([6] * 6, **ENDLESS))
    assert shape(scheduler.schedule()) == [(2, 1, True), (0, 1, True), (0, 4, False), (0, 4, False)]
    assert shape(scheduler.schedule()) == [(3, 1, True), (1, 1, True), (4, 2, True), (4, 4, False)]
    assert shape(scheduler.schedule()) == [(4, 1, True), (2, 1, True), (6, 1, True), (8, 1, True)]


def test_no_more_than_max_num_seqs_run():
    scheduler = make(max_num_seqs=2)
    for _ in range(3):
        scheduler.add(make_sequence([1, 2], max_tokens=2, **ENDLESS))
    batch = scheduler.schedule()
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 1)
    scheduler.update(batch, [5, 5])
    batch = scheduler.schedule()
    assert len(batch.rows) == 2
    scheduler.update(batch, [5, 5])
    assert scheduler.schedule().rows[0].slot in (0, 1)


# ------------------------------------------------------------------ ends


@pytest.mark.parametrize(
    ("params", "tokens", "reason", "stop_reason"),
    [
        ({}, [5, 0], "stop", None),
        ({"stop_token_ids": [9]}, [5, 9], "stop", 9),
        ({"stop_token_ids": [0]}, [5, 0], "stop", None),
        ({"max_tokens": 2}, [5, 0], "stop", None),
        ({"max_tokens": 2}, [5, 5], "length", None),
        ({"max_tokens": 2, "eos": frozenset()}, [5, 0], "length", None),
        ({"eos": frozenset(), "stop_token_ids": [9]}, [0, 0, 9], "stop", 9),
        ({"max_tokens": None}, [5] * 61, "length", None),
        ({"max_tokens": 5, "min_tokens": 3}, [0, 0, 0], "stop", None),
        ({"max_tokens": 3, "min_tokens": 3, "eos": frozenset()}, [0, 0, 0], "length", None),
    ],
)
def test_stops(params, tokens, reason, stop_reason):
    scheduler = make()
    seq = make_sequence([1, 2, 3], **params)
    scheduler.add(seq)
    for i, token in enumerate(tokens):
        assert not seq.finished, i
        finished = scheduler.update(scheduler.schedule(), [token])
    assert finished == [seq]
    assert seq.output_token_ids == tokens
    assert (seq.finish_reason, seq.stop_reason) == (reason, stop_reason)
    assert not scheduler.has_work
    assert scheduler.kv_cache_usage == 0
    scheduler.check_integrity()


def test_update_wants_one_entry_a_row():
    scheduler = make()
    scheduler.add(make_sequence([1]))
    with pytest.raises(ValueError, match="zip"):
        scheduler.update(scheduler.schedule(), [])


def test_abort_ends_all_sequences_of_a_request_wherever_they_are():
    scheduler = make(max_num_seqs=2)
    siblings = [make_sequence([i] * 20, request_id="r", index=i) for i in range(3)]
    other = make_sequence([9] * 4, request_id="s", **ENDLESS)
    for seq in [*siblings, other]:
        scheduler.add(seq)
    batch = scheduler.schedule()
    assert scheduler.abort("r") == siblings
    assert {(s.status, s.finish_reason) for s in siblings} == {(SequenceStatus.FINISHED, "abort")}
    assert scheduler.num_free_blocks == 64
    assert scheduler.abort("r") == []
    assert scheduler.abort("nobody") == []
    assert scheduler.update(batch, tokens_for(batch)) == []
    assert scheduler.has_work
    assert [row.seq for row in scheduler.schedule().rows] == [other]
    scheduler.check_integrity()


def test_finish_frees_at_once_and_only_once():
    scheduler = make()
    seq = make_sequence([1] * 6, **ENDLESS)
    scheduler.add(seq)
    scheduler.update(scheduler.schedule(), [5])
    in_flight = scheduler.schedule()
    scheduler.finish(seq, "stop", "\n")
    scheduler.finish(seq, "abort")
    assert (seq.finish_reason, seq.stop_reason) == ("stop", "\n")
    assert scheduler.num_free_blocks == 64
    assert scheduler.update(in_flight, [8]) == []
    assert seq.output_token_ids == [5]


# ------------------------------------------------------------------ overlapping steps


def test_a_pending_token_is_decoded_before_it_is_known():
    scheduler = make()
    seq = make_sequence([1, 2, 3], max_tokens=3, **ENDLESS)
    scheduler.add(seq)
    batches = [scheduler.schedule() for _ in range(4)]
    assert [shape(b) for b in batches] == [[(0, 3, True)], [(3, 1, True)], [(4, 1, True)], []]
    assert batches[3].empty
    assert seq.num_pending == 3
    for batch in batches[:3]:
        assert not seq.finished
        scheduler.update(batch, [5])
    assert seq.finish_reason == "length"


def test_pending_tokens_count_against_max_model_len():
    scheduler = make(max_model_len=5)
    seq = make_sequence([1, 2, 3], max_tokens=None, **ENDLESS)
    scheduler.add(seq)
    batches = [scheduler.schedule() for _ in range(3)]
    assert [len(b.rows) for b in batches] == [1, 1, 0]


def test_sequences_that_need_the_host_wait_for_their_token():
    scheduler = make()
    seq = make_sequence([1, 2, 3], bad_words=["x"], **ENDLESS)
    scheduler.add(seq)
    first = scheduler.schedule()
    assert scheduler.schedule().empty
    scheduler.update(first, [5])
    assert shape(scheduler.schedule()) == [(3, 1, True)]


def test_tokens_behind_the_end_are_dropped_and_the_slot_is_reused():
    scheduler = make(max_num_seqs=1)
    seq, following = make_sequence([1, 2, 3]), make_sequence([7, 8, 9])
    scheduler.add(seq)
    scheduler.add(following)
    first, second = scheduler.schedule(), scheduler.schedule()
    assert scheduler.update(first, [0]) == [seq]
    third = scheduler.schedule()
    assert [(row.seq, row.slot, row.resumed) for row in third.rows] == [(following, 0, True)]
    assert scheduler.update(second, [6]) == []
    assert seq.output_token_ids == [0]
    scheduler.update(third, [6])
    assert following.output_token_ids == [6]
    scheduler.check_integrity()


def test_a_sequence_preempted_with_a_token_in_flight_waits_for_it():
    scheduler = make(num_blocks=5, max_model_len=20, enable_prefix_caching=False)
    a = make_sequence([1] * 8, **(ENDLESS | {"max_tokens": 12}))
    b = make_sequence([2] * 7, **ENDLESS)
    for seq in (a, b):
        scheduler.add(seq)
    first = scheduler.schedule()  # two blocks each, one is left
    scheduler.update(first, tokens_for(first))
    second = scheduler.schedule()  # "a" takes the last block
    third = scheduler.schedule()  # "b" finds none and is the last in order
    assert third.preempted == [b]
    assert [row.seq for row in third.rows] == [a]
    assert (b.num_pending, b.num_tokens, b.block_ids, b.slot) == (1, 9, [], None)
    scheduler.abort(a.request_id)
    assert scheduler.schedule().empty
    scheduler.update(second, [5, 6])
    assert b.output_token_ids == [5, 6]
    again = scheduler.schedule()
    assert shape(again) == [(0, 9, True)]
    assert again.rows[0].resumed
    assert b.num_preemptions == 1
    scheduler.check_integrity()


# ------------------------------------------------------------------ blocks and order


def test_the_last_in_order_is_preempted_and_comes_back_in_front():
    scheduler = make(num_blocks=8, max_model_len=32, enable_prefix_caching=False)
    sequences = [make_sequence([i] * 6, max_tokens=20, **ENDLESS) for i in range(4)]
    for seq in sequences:
        scheduler.add(seq)
    loop = Loop(scheduler)
    loop.run()
    assert loop.num_preemptions > 0
    assert sequences[0].num_preemptions == 0
    assert loop.finished == sequences
    for seq in sequences:
        assert seq.output_token_ids == expected(seq, 32)[0]


def test_admission_wants_blocks_for_the_whole_prompt_and_a_reserve():
    scheduler = make(num_blocks=8)
    scheduler.add(make_sequence([1] * 12, **ENDLESS))
    scheduler.add(make_sequence([2] * 20, max_tokens=1))  # five blocks: all that is left
    scheduler.schedule()
    assert scheduler.num_running == 1
    scheduler.schedule()
    assert scheduler.num_running == 1
    scheduler.abort(next(iter(scheduler._decoding)).request_id)
    scheduler.schedule()
    assert scheduler.num_running == 1
    assert scheduler.num_waiting == 0


def test_a_preempted_sequence_finds_its_own_blocks_again():
    scheduler = make(num_blocks=8, max_model_len=32)
    a, b = (make_sequence([i] * 8, max_tokens=16, **ENDLESS) for i in (1, 2))
    for seq in (a, b):
        scheduler.add(seq)
    loop = Loop(scheduler)
    loop.run()
    assert b.num_preemptions == 1
    computed_without_hits = 2 * (8 + 15) + 8 + 1
    assert loop.device.num_computed < computed_without_hits
    assert b.num_cached_tokens == 0, "tells of the first admission only"
    assert scheduler.prefix_cache_stats == (16, 0)


def test_priority_orders_admission_then_arrival_decides():
    scheduler = make(policy="priority", max_num_seqs=1)
    keys = [(3, 1.0), (0, 5.0), (3, 0.5), (-2, 9.0), (0, 4.0)]
    for priority, arrival in keys:
        scheduler.add(make_sequence([1, 2], priority=priority, arrival_time=arrival, max_tokens=2, **ENDLESS))
    loop = Loop(scheduler)
    loop.run()
    assert [(s.priority, s.arrival_time) for s in loop.finished] == sorted(keys)


def test_priority_orders_the_chunks_of_running_prefills():
    scheduler = make(policy="priority", long_prefill_token_threshold=12)
    low, high = make_sequence(range(40), priority=1), make_sequence(range(40, 60), priority=0)
    scheduler.add(low)
    scheduler.schedule()
    scheduler.add(high)
    assert [(row.seq, row.num_tokens) for row in scheduler.schedule().rows] == [(low, 12), (high, 4)]
    assert [(row.seq, row.num_tokens) for row in scheduler.schedule().rows] == [(high, 12), (low, 4)]


def test_priority_picks_the_victims():
    scheduler = make(num_blocks=8, max_model_len=32, policy="priority", enable_prefix_caching=False)
    low = make_sequence([1] * 6, priority=5, max_tokens=20, **ENDLESS)
    high = make_sequence([2] * 6, priority=-5, max_tokens=20, **ENDLESS)
    scheduler.add(low)
    loop = Loop(scheduler)
    loop.step()
    scheduler.add(high)
    loop.run()
    assert low.num_preemptions > 0
    assert high.num_preemptions == 0
    assert loop.finished == [high, low]


def test_fcfs_numbers_by_arrival_at_the_scheduler():
    scheduler = make(max_num_seqs=1)
    sequences = [make_sequence([1], max_tokens=1, arrival_time=-i) for i in range(3)]
    for seq in sequences:
        scheduler.add(seq)
    loop = Loop(scheduler)
    loop.run()
    assert loop.finished == sequences


# ------------------------------------------------------------------ prefix cache


def test_multi_turn_finds_the_output_of_the_turn_before():
    scheduler = make()
    first = make_sequence(range(1, 11), max_tokens=10, **ENDLESS)
    scheduler.add(first)
    loop = Loop(scheduler, depth=2)
    loop.run()
    chat = first.prompt_token_ids + first.output_token_ids
    second = make_sequence([*chat, 30, 31])
    scheduler.add(second)
    loop.run()
    assert second.num_cached_tokens == 16  # 19 computed tokens make four full blocks
    assert scheduler.prefix_cache_stats == (10 + 22, 16)
    assert second.output_token_ids == expected(second, 64)[0]


def test_siblings_compute_their_prompt_once():
    scheduler = make(max_num_batched_tokens=48)
    siblings = [make_sequence(range(33), request_id="r", index=i, seed=i) for i in range(4)]
    unrelated = make_sequence([9, 9, 9])
    for seq in [*siblings, unrelated]:
        scheduler.add(seq)
    loop = Loop(scheduler, depth=2)
    first = scheduler.schedule()
    assert [row.seq for row in first.rows] == [siblings[0], unrelated], "who waits for a hit blocks nobody"
    loop.in_flight.append((first, loop.device.execute(first)))
    second = scheduler.schedule()
    assert shape(second) == [(33, 1, True), (3, 1, True)] + [(32, 1, True)] * 3
    loop.in_flight.append((second, loop.device.execute(second)))
    loop.run()
    assert [seq.num_cached_tokens for seq in siblings] == [0, 32, 32, 32]
    for seq in siblings:
        assert seq.output_token_ids == expected(seq, 64)[0]


def test_who_waits_for_a_hit_keeps_a_slot():
    scheduler = make(max_num_seqs=2)
    leader, sibling, other = make_sequence(range(8)), make_sequence(range(9)), make_sequence([9])
    for seq in (leader, sibling, other):
        scheduler.add(seq)
    assert [row.seq for row in scheduler.schedule().rows] == [leader]
    assert [row.seq for row in scheduler.schedule().rows] == [leader, sibling]


def test_sequences_with_different_salts_share_nothing():
    scheduler = make()
    loop = Loop(scheduler)
    hits = []
    for salt in ("a", "b", None, "a"):
        seq = make_sequence(range(1, 14), cache_salt=salt)
        scheduler.add(seq)
        loop.run()
        hits.append(seq.num_cached_tokens)
    assert hits == [0, 0, 0, 12]


def test_reset_hides_what_was_computed_before():
    scheduler = make()
    running = make_sequence(range(1, 14), max_tokens=20, **ENDLESS)
    scheduler.add(running)
    loop = Loop(scheduler, depth=2)
    loop.step()
    assert not scheduler.reset_prefix_cache(), "some blocks are in use"
    scheduler.check_integrity()
    fresh = make_sequence(range(1, 14), max_tokens=20, seed=1)
    scheduler.add(fresh)
    loop.run()
    assert fresh.num_cached_tokens == 0
    again = make_sequence([*running.prompt_token_ids, *running.output_token_ids])
    scheduler.add(again)
    loop.run()
    assert again.num_cached_tokens == 12, "the prompt is there again because of the fresh sequence"
    assert scheduler.reset_prefix_cache()


def test_prompt_logprobs_compute_the_whole_prompt():
    scheduler = make(max_num_batched_tokens=64)
    loop = Loop(scheduler)
    for _ in range(2):
        seq = make_sequence(range(1, 14), prompt_logprobs=0)
        scheduler.add(seq)
        assert shape(scheduler.schedule()) == [(0, 13, True)]
        scheduler.abort(seq.request_id)
    plain = make_sequence(range(1, 14))
    scheduler.add(plain)
    loop.device.truth.clear()
    assert shape(scheduler.schedule()) == [(12, 1, True)]
