import numpy as np
from scipy import stats

from vllm_jax.sampling.seeds import fresh_seed, seed_words, sequence_seed


def test_first_sequence_has_the_request_seed():
    assert sequence_seed(42, 0) == 42
    assert sequence_seed(-1, 0) == 2**64 - 1
    assert sequence_seed(-(2**63), 0) == 2**63


def test_sequences_differ_and_are_deterministic():
    seeds = [sequence_seed(s, i) for s in (-2, -1, 0, 1, 2, 2**63 - 1) for i in range(128)]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [sequence_seed(s, i) for s in (-2, -1, 0, 1, 2, 2**63 - 1) for i in range(128)]
    assert all(0 <= s < 2**64 for s in seeds)


def test_fresh_seeds_differ_between_requests_and_repeat_with_the_engine():
    seeds = [fresh_seed(0, i) for i in range(5000)]
    assert len(set(seeds)) == 5000
    assert seeds[:10] == [fresh_seed(0, i) for i in range(10)]
    assert not set(seeds) & {fresh_seed(1, i) for i in range(5000)}


def test_fresh_seeds_look_uniform():
    high = np.array([seed_words(fresh_seed(7, i))[0] for i in range(20_000)])
    low = np.array([seed_words(fresh_seed(7, i))[1] for i in range(20_000)])
    for words in (high, low):
        assert stats.kstest(words / 2**32, "uniform").pvalue > 0.01


def test_words_round_trip():
    for seed in (0, 1, 2**32, 2**64 - 1, 0x0123456789ABCDEF):
        high, low = seed_words(seed)
        assert high << 32 | low == seed
