"""Logprobs and ranks, of sampled tokens and of prompts."""

from functools import partial

import jax
import numpy as np
import pytest
import torch
from sampling_oracle import full_inputs, log_softmax

from vllm_jax.sampling import sampler
from vllm_jax.sampling.logprobs import gather_logprobs
from vllm_jax.sampling_params import SamplingParams

gather = jax.jit(gather_logprobs, static_argnums=2)
full = jax.jit(sampler.full, static_argnums=2)


@pytest.mark.parametrize(("vocab", "k"), [(1, 5), (33, 0), (33, 20), (500, 500)])
@pytest.mark.parametrize("scale", [1e-3, 3.0, 1e3])
def test_prompt_logprobs_against_numpy(vocab, k, scale):
    rng = np.random.default_rng(vocab + k)
    logits = np.float32(rng.normal(size=(40, vocab)) * scale)
    tokens = rng.integers(0, vocab, 40).astype(np.int32)
    got = gather(logits, tokens, k)
    assert got.top_ids.shape == got.top_logprobs.shape == (40, min(k, vocab))
    assert got.listed_logprobs is None
    for i in range(40):
        expected = log_softmax(logits[i])
        np.testing.assert_allclose(got.token_logprob[i], expected[tokens[i]], rtol=1e-5, atol=1e-5)
        assert got.rank[i] == 1 + (logits[i] > logits[i, tokens[i]]).sum()
        order = np.argsort(-logits[i], kind="stable")[:k]
        np.testing.assert_array_equal(got.top_ids[i], order)
        np.testing.assert_allclose(got.top_logprobs[i], expected[order], rtol=1e-5, atol=1e-5)


def test_against_torch():
    logits = np.float32(np.random.default_rng(0).normal(size=(16, 1000)) * 2)
    got = gather(logits, logits.argmax(-1).astype(np.int32), 10)
    expected, ids = torch.log_softmax(torch.from_numpy(logits), -1).topk(10)
    np.testing.assert_array_equal(got.top_ids, ids.numpy())
    np.testing.assert_allclose(got.top_logprobs, expected.numpy(), rtol=1e-5)
    np.testing.assert_array_equal(got.rank, 1)


def test_ties_share_a_rank_and_list_the_smaller_id_first():
    logits = np.float32([[1, 5, 5, 0, 5, 1]])
    for token, rank in ((1, 1), (2, 1), (4, 1), (0, 4), (5, 4), (3, 6)):
        assert gather(logits, np.int32([token]), 3).rank[0] == rank
    assert gather(logits, np.int32([0]), 5).top_ids[0].tolist() == [1, 2, 4, 0, 5]


def test_impossible_tokens():
    logits = np.float32([[0, -np.inf, np.nan, 0]])
    got = gather(logits, np.int32([1]), 4)
    assert np.isneginf(got.token_logprob[0]) and got.rank[0] == 3
    np.testing.assert_allclose(got.top_logprobs[0, :2], np.log(0.5), rtol=1e-6)
    assert np.isneginf(got.top_logprobs[0, 2:]).all()
    for row in (np.full((1, 9), -np.inf), np.full((1, 9), np.nan)):
        nothing = gather(np.float32(row), np.int32([0]), 3)
        assert np.isneginf(nothing.token_logprob[0]) and not np.isnan(nothing.top_logprobs).any()
        assert (nothing.top_ids < 9).all()


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0},
        {"temperature": 0.2, "top_k": 2},
        {"logit_bias": {3: 100.0}},
        {"allowed_token_ids": [7]},
        {"presence_penalty": 2.0, "repetition_penalty": 3.0},
    ],
    ids=lambda c: next(iter(c)),
)
def test_sampled_logprobs_are_those_of_the_untouched_logits(change):
    rng = np.random.default_rng(1)
    logits = np.float32(rng.normal(size=(8, 50)))
    listed = [0, 3, 49]
    params = [SamplingParams(logprobs=4, logprob_token_ids=listed, **change)] * 8
    f = full_inputs(params, 50, prompts=[[1, 2]] * 8, outputs=[[5, 5]] * 8)
    tokens, got = full(logits, f, 4)
    again = partial(gather, logits, tokens)(4)
    for i, token in enumerate(np.asarray(tokens)):
        expected = log_softmax(logits[i])
        np.testing.assert_allclose(got.token_logprob[i], expected[token], rtol=1e-5)
        np.testing.assert_allclose(got.listed_logprobs[i, :3], expected[listed], rtol=1e-5)
        assert got.rank[i] == 1 + (logits[i] > logits[i, token]).sum()
    np.testing.assert_array_equal(got.top_ids, again.top_ids)
