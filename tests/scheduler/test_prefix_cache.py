from __future__ import annotations

import pytest
from fake_device import make_sequence

from vllm_jax.scheduler.block_allocator import BlockAllocator
from vllm_jax.scheduler.prefix_cache import NEVER, PrefixCache

SIZE = 4
PROMPT = list(range(1, 14))  # three full blocks and one token


def make(num_blocks=16, **kwargs):
    allocator = BlockAllocator(num_blocks)
    return allocator, PrefixCache(allocator, SIZE, **kwargs)


def compute(allocator, cache, seq, *, publish=True):
    """What the scheduler does for a sequence that is computed in one step."""
    found, _ = cache.match(seq)
    allocator.share(found)
    seq.block_ids = found + allocator.allocate(-(-seq.num_tokens // SIZE) - len(found))
    seq.num_published_blocks = len(found)
    seq.num_computed_tokens = seq.num_tokens
    if publish:
        cache.publish(seq)
    return found


def end(allocator, seq):
    allocator.free(seq.block_ids)
    seq.block_ids = []


def test_equal_prefixes_share_full_blocks():
    allocator, cache = make()
    a = make_sequence(PROMPT)
    assert compute(allocator, cache, a) == []
    assert len(cache) == 3
    b = make_sequence([*PROMPT[:10], 99, 98, 97])
    assert compute(allocator, cache, b) == a.block_ids[:2]
    assert allocator.num_references(a.block_ids[0]) == 2
    cache.check_integrity()
    allocator.check_integrity()


def test_a_block_depends_on_everything_before_it():
    allocator, cache = make()
    compute(allocator, cache, make_sequence([1, 2, 3, 4, 5, 6, 7, 8, 9]))
    assert cache.match(make_sequence([0, 2, 3, 4, 5, 6, 7, 8, 9])) == ([], False)
    assert cache.match(make_sequence([5, 6, 7, 8, 9])) == ([], False)


@pytest.mark.parametrize(("length", "blocks"), [(4, 0), (5, 1), (8, 1), (9, 2), (12, 2), (13, 3)])
def test_the_last_token_is_always_computed(length, blocks):
    allocator, cache = make()
    compute(allocator, cache, make_sequence(PROMPT))
    found, _ = cache.match(make_sequence(PROMPT[:length]))
    assert len(found) == blocks


def test_salts_and_secrets_isolate():
    allocator, cache = make()
    salts = [None, "", "a", "b", "\ud800", "a" * 100]
    for salt in salts:
        assert compute(allocator, cache, make_sequence(PROMPT[:5], cache_salt=salt)) == []
    for salt in salts:
        assert len(cache.match(make_sequence(PROMPT[:5], cache_salt=salt))[0]) == 1
    keys = []
    for _ in range(2):
        allocator, cache = make()
        seq = make_sequence(PROMPT)
        compute(allocator, cache, seq)
        keys.append(seq.block_keys)
    assert not set(keys[0]) & set(keys[1]), "every cache has a secret of its own"
    allocator, cache = make(secret=b"x")
    again = make_sequence(PROMPT, cache_salt="s")
    cache.match(again)
    assert len({key[:32] for key in again.block_keys}) == 3


def test_staged_blocks_are_found_from_the_next_step_on():
    allocator, cache = make()
    a, b = make_sequence(PROMPT), make_sequence(PROMPT)
    compute(allocator, cache, a, publish=False)
    cache.stage(a)
    assert cache.match(b) == ([], True)
    assert cache.match(make_sequence([7, *PROMPT])) == ([], False)
    cache.commit()
    assert cache.match(b) == (a.block_ids[:3], False)
    cache.check_integrity()


def test_output_tokens_count_once_they_are_known():
    allocator, cache = make()
    a = make_sequence([1, 2, 3])
    a.block_ids = allocator.allocate(2)
    a.num_computed_tokens, a.num_pending = 4, 2  # position 3 was computed from a token still on the device
    cache.publish(a)
    assert len(cache) == 0
    a.output_token_ids.append(50)
    a.num_pending = 1
    cache.publish(a)
    assert cache.match(make_sequence([1, 2, 3, 50, 9]))[0] == a.block_ids[:1]


def test_the_first_of_equal_blocks_stays():
    allocator, cache = make()
    a, b = make_sequence(PROMPT), make_sequence(PROMPT)
    compute(allocator, cache, a, publish=False)
    compute(allocator, cache, b, publish=False)
    cache.publish(a)
    cache.publish(b)
    assert len(cache) == 3
    end(allocator, b)
    assert allocator.num_cached == 0
    assert cache.match(make_sequence(PROMPT))[0] == a.block_ids[:3]
    cache.check_integrity()


def test_least_recently_used_chains_go_first_and_from_their_ends():
    allocator, cache = make(num_blocks=8)
    old, young = make_sequence([1] * 9), make_sequence([2] * 9)
    for seq in (old, young):
        compute(allocator, cache, seq)
    end(allocator, old)
    end(allocator, young)
    again = make_sequence([1] * 9)
    assert len(compute(allocator, cache, again)) == 2  # now "old" is the younger one
    end(allocator, again)
    allocator.allocate(5)  # 4 empty blocks, then the end of the least recently used chain
    assert len(cache.match(make_sequence([2] * 9))[0]) == 1
    allocator.allocate(1)
    assert len(cache.match(make_sequence([2] * 9))[0]) == 0
    assert len(cache.match(make_sequence([1] * 9))[0]) == 2
    cache.check_integrity()


def test_prompt_logprobs_skip_reads_but_publish():
    allocator, cache = make()
    for _ in range(2):
        seq = make_sequence(PROMPT, prompt_logprobs=1)
        assert compute(allocator, cache, seq) == []
        cache.count_lookup(seq, 0)
    assert cache.num_queried_tokens == 0
    plain = make_sequence(PROMPT)
    assert len(compute(allocator, cache, plain)) == 3
    cache.count_lookup(plain, 12)
    assert (cache.num_queried_tokens, cache.num_hit_tokens) == (13, 12)


def test_reset_lets_referenced_blocks_drain():
    allocator, cache = make()
    ended, running = make_sequence(PROMPT), make_sequence([9] * 9)
    compute(allocator, cache, ended)
    compute(allocator, cache, running)
    end(allocator, ended)
    cache.reset()
    running.num_published_blocks = NEVER
    cache.publish(running)
    assert len(cache) == 0
    assert allocator.num_cached == 0
    assert cache.match(make_sequence([9] * 9)) == ([], False)
    end(allocator, running)
    assert allocator.num_free == 16
    assert allocator.num_cached == 0
    cache.check_integrity()
    allocator.check_integrity()


def test_disabled_it_does_nothing():
    allocator, cache = make(enabled=False)
    a = make_sequence(PROMPT)
    compute(allocator, cache, a)
    cache.stage(a)
    cache.commit()
    cache.count_lookup(a, 0)
    assert len(cache) == 0
    assert cache.match(make_sequence(PROMPT)) == ([], False)
    assert cache.num_queried_tokens == 0
    cache.check_integrity()
