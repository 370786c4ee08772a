"""Which tokens come out: greedy, the drawn distribution, seeds, and rows that are out of the ordinary."""

import jax
import numpy as np
import pytest
from sampling_oracle import distribution, full_inputs, processed, random_inputs
from scipy import stats

from vllm_jax.sampling import sampler
from vllm_jax.sampling.seeds import sequence_seed
from vllm_jax.sampling_params import SamplingParams

greedy = jax.jit(sampler.greedy)
random = jax.jit(sampler.random)
full = jax.jit(sampler.full, static_argnums=2)


def draw(logits, params, *, seeds=None, positions=None) -> np.ndarray:
    rows = len(logits)
    params = params if isinstance(params, list) else [params] * rows
    seeds = range(rows) if seeds is None else seeds
    positions = [0] * rows if positions is None else positions
    tokens = np.asarray(random(np.float32(logits), random_inputs(params, seeds, positions)))
    assert tokens.dtype == np.int32
    return tokens


def assert_drawn_from(tokens: np.ndarray, probs: np.ndarray) -> None:
    """Chi-square test; cells that expect fewer than five draws are put together."""
    counts = np.bincount(tokens, minlength=len(probs)).astype(float)
    assert counts[probs == 0].sum() == 0
    expected = probs * len(tokens)
    small = expected < 5
    observed = np.append(counts[~small], counts[small].sum())
    wanted = np.append(expected[~small], expected[small].sum())
    keep = wanted > 0
    if keep.sum() == 1:
        return
    observed, wanted = observed[keep], wanted[keep]
    assert stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-3


@pytest.mark.parametrize("vocab", [1, 128, 300])
def test_greedy_is_argmax(vocab):
    rng = np.random.default_rng(vocab)
    for logits in (
        rng.normal(size=(20, vocab)),
        rng.integers(-2, 2, (20, vocab)),  # ties: the smallest id
        rng.normal(size=(20, vocab)) * 1e30,
        rng.normal(size=(20, vocab)) * 1e-30,
        np.where(rng.random((20, vocab)) < 0.9, -np.inf, rng.normal(size=(20, vocab))),
    ):
        logits = np.float32(logits)
        assert (np.asarray(greedy(logits)) == logits.argmax(-1)).all()
        assert (draw(logits, SamplingParams(temperature=0)) == logits.argmax(-1)).all()


DRAWS, WIDE = 20_000, 256


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 1.7},
        {"top_k": 7},
        {"top_p": 0.6},
        {"min_p": 0.2},
        {"top_k": 30, "top_p": 0.9, "min_p": 0.01, "temperature": 1.3},
    ],
    ids=str,
)
def test_tokens_are_drawn_from_the_distribution(setting):
    row = np.random.default_rng(0).normal(size=WIDE) * 2
    tokens = draw(np.tile(row, (DRAWS, 1)), SamplingParams(**setting))
    assert_drawn_from(tokens, distribution(row, **setting))


def test_draws_along_positions_are_independent_of_each_other():
    row = np.append(np.random.default_rng(1).normal(size=6), np.full(WIDE - 6, -np.inf))
    tokens = draw(np.tile(row, (DRAWS, 1)), SamplingParams(), seeds=[9] * DRAWS, positions=range(DRAWS))
    probs = distribution(row)[:6]
    assert_drawn_from(tokens, probs)
    pairs = tokens[0::2] * 6 + tokens[1::2]
    assert_drawn_from(pairs, np.outer(probs, probs).ravel())


def test_n_samples_of_a_seed_are_independent_of_each_other():
    row = np.append(np.random.default_rng(2).normal(size=6), np.full(WIDE - 6, -np.inf))
    requests = DRAWS // 2
    seeds = [sequence_seed(s, i) for s in range(requests) for i in range(2)]
    tokens = draw(np.tile(row, (DRAWS, 1)), SamplingParams(), seeds=seeds)
    probs = distribution(row)[:6]
    assert_drawn_from(tokens[0::2] * 6 + tokens[1::2], np.outer(probs, probs).ravel())


def test_unlikely_tokens_have_their_share():
    """Tokens far in the tail, in a block of their own, keep their relative probabilities."""
    row = np.zeros(WIDE)
    row[128:] = -4.0
    row[128] = -1.0
    assert_drawn_from(draw(np.tile(row, (DRAWS, 1)), SamplingParams()), distribution(row))


def test_seeded_tokens_do_not_depend_on_the_batch():
    rng = np.random.default_rng(4)
    settings = [{}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"temperature": 0.3}, {"temperature": 0}]
    params = [SamplingParams(**settings[i % 6]) for i in range(48)]
    logits = np.float32(rng.normal(size=(48, 500)) * 3)
    seeds = rng.integers(0, 2**63, 48).tolist()
    positions = rng.integers(0, 4096, 48).tolist()
    together = draw(logits, params, seeds=seeds, positions=positions)
    order = rng.permutation(48)
    shuffled = draw(
        logits[order],
        [params[i] for i in order],
        seeds=[seeds[i] for i in order],
        positions=[positions[i] for i in order],
    )
    assert (shuffled == together[order]).all()
    for size in (1, 16):
        parts = [
            draw(
                logits[i : i + size],
                params[i : i + size],
                seeds=seeds[i : i + size],
                positions=positions[i : i + size],
            )
            for i in range(0, 48, size)
        ]
        assert (np.concatenate(parts) == together).all()


def test_plain_and_full_sampler_agree():
    rng = np.random.default_rng(5)
    settings = [{}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"temperature": 0}]
    params = [SamplingParams(**settings[i % 5]) for i in range(20)]
    logits = np.float32(rng.normal(size=(20, 300)) * 3)
    prompts = [list(range(i)) for i in range(20)]
    f = full_inputs(params, 300, prompts=prompts)
    assert (np.asarray(full(logits, f, 3)[0]) == draw(logits, params, positions=range(20))).all()


def test_different_seeds_and_positions_give_different_draws():
    flat = np.zeros((100, 3000))
    assert len(set(draw(flat, SamplingParams(), seeds=range(100)).tolist())) > 90
    assert len(set(draw(flat, SamplingParams(), seeds=[1] * 100, positions=range(100)).tolist())) > 90
    high_words = [i << 32 for i in range(100)]
    assert len(set(draw(flat, SamplingParams(), seeds=high_words).tolist())) > 90
    assert len(set(draw(flat, SamplingParams(), seeds=[1] * 100).tolist())) == 1


@pytest.mark.parametrize("vocab", [1, 33, 130])
@pytest.mark.parametrize(
    "setting", [{}, {"temperature": 0}, {"top_k": 3, "top_p": 0.5, "min_p": 0.1}], ids=str
)
def test_no_row_gives_an_id_out_of_range(vocab, setting):
    special = np.zeros((12, vocab), np.float32)
    special[0] = np.nan
    special[1] = -np.inf
    special[2] = np.inf
    special[3, -1] = np.nan
    special[4, -1] = np.inf
    special[5] = 3e38
    special[6] = -3e38
    special[7, ::2] = -3.4e38
    special[8, ::2] = 3.4e38
    special[9, :-1] = -np.inf
    special[10, 1:] = np.nan
    special[11] = 1e-42
    params = SamplingParams(**setting)
    for tokens in (
        draw(special, params),
        np.asarray(greedy(special)),
        np.asarray(full(special, full_inputs([params] * 12, vocab), 0)[0]),
    ):
        assert ((tokens >= 0) & (tokens < vocab)).all()
        assert tokens[0] == tokens[1] == 0
        assert tokens[4] == vocab - 1
        assert tokens[9] == vocab - 1
        assert tokens[10] == 0
        if vocab > 1:
            assert tokens[3] != vocab - 1 and tokens[8] % 2 == 0


def test_extreme_temperatures():
    row = np.float32(np.random.default_rng(6).normal(size=WIDE))
    rows = np.tile(row, (DRAWS, 1))
    assert (draw(rows, SamplingParams(temperature=1e-5)) == row.argmax()).all()
    assert_drawn_from(draw(rows, SamplingParams(temperature=2)), distribution(row, temperature=2))


@pytest.mark.parametrize(
    "change",
    [
        {"allowed_token_ids": [2, 3, 40]},
        {"logit_bias": {5: 3.0, 6: -100}},
        {"presence_penalty": 1.5, "frequency_penalty": 0.5},
        {"repetition_penalty": 1.8, "top_p": 0.9},
    ],
    ids=lambda c: next(iter(c)),
)
def test_processed_distribution_is_sampled(change):
    row = np.random.default_rng(8).normal(size=60)
    params = SamplingParams(**change)
    prompt, output = [1, 2, 2, 7], [2, 5, 5, 9]
    f = full_inputs([params] * 8000, 60, prompts=[prompt] * 8000, outputs=[output] * 8000, history_len=8)
    tokens = np.asarray(full(np.tile(np.float32(row), (8000, 1)), f, 0)[0])
    expected = distribution(processed(row, params, prompt, output), top_p=params.top_p)
    assert_drawn_from(tokens, expected)
