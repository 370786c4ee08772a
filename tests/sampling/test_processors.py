"""Logits processors against NumPy and, for the repetition penalty and bad words, against transformers."""

import jax
import numpy as np
import pytest
import torch
from sampling_oracle import full_inputs, processed
from transformers.generation.logits_process import (
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from vllm_jax.sampling.processors import process
from vllm_jax.sampling_params import SamplingParams

run = jax.jit(process)

CHANGES = [
    {},
    {"presence_penalty": 2.0},
    {"presence_penalty": -1.0},
    {"frequency_penalty": 0.7},
    {"frequency_penalty": -2.0},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.5},
    {"presence_penalty": 0.5, "frequency_penalty": 0.25, "repetition_penalty": 2.0},
    {"logit_bias": {0: 2.5, 46: -100.0, 7: 1e9}},
    {"allowed_token_ids": [0, 5, 31, 32, 46]},
    {"allowed_token_ids": [5, 7], "logit_bias": {5: -3.0, 6: 100.0}, "repetition_penalty": 1.5},
]
VOCAB = 47


@pytest.mark.parametrize("history_len", [40, 300, 600])
def test_against_numpy(history_len):
    """Every change in one batch; histories from nothing to the array's end, across counting chunks."""
    rng = np.random.default_rng(history_len)
    params = [SamplingParams(**change) for change in CHANGES for _ in range(3)]
    logits = np.float32(rng.normal(size=(len(params), VOCAB)) * 3)
    prompts, outputs = [], []
    for i in range(len(params)):
        total = (0, history_len, int(rng.integers(1, history_len)))[i % 3]
        cut = int(rng.integers(0, total + 1))
        tokens = rng.integers(0, VOCAB, total).tolist() if i % 2 else rng.integers(0, 5, total).tolist()
        prompts.append(tokens[:cut])
        outputs.append(tokens[cut:])
    f = full_inputs(params, VOCAB, prompts=prompts, outputs=outputs, history_len=history_len)
    got = np.asarray(run(logits, f))
    for i, p in enumerate(params):
        expected = processed(logits[i], p, prompts[i], outputs[i])
        np.testing.assert_allclose(got[i], expected, rtol=1e-5, atol=1e-4, err_msg=str(CHANGES[i // 3]))


def test_penalties_leave_impossible_tokens_impossible():
    logits = np.full((2, 40), -np.inf, np.float32)
    logits[:, 4] = -1.0
    params = [SamplingParams(repetition_penalty=0.5), SamplingParams(frequency_penalty=-2)]
    got = np.asarray(run(logits, full_inputs(params, 40, outputs=[[3, 4]] * 2)))
    assert got[0, 4] == -0.5 and got[1, 4] == 1.0
    assert np.isneginf(np.delete(got, 4, axis=1)).all()


@pytest.mark.parametrize("penalty", [0.6, 1.0, 1.7])
def test_repetition_penalty_against_transformers(penalty):
    rng = np.random.default_rng(0)
    logits = np.float32(rng.normal(size=(4, 100)))
    tokens = rng.integers(0, 100, (4, 30))
    params = [SamplingParams(repetition_penalty=penalty)] * 4
    f = full_inputs(
        params, 100, prompts=[t[:20].tolist() for t in tokens], outputs=[t[20:].tolist() for t in tokens]
    )
    oracle = RepetitionPenaltyLogitsProcessor(penalty)
    expected = oracle(torch.from_numpy(tokens), torch.from_numpy(logits.copy())).numpy()
    np.testing.assert_allclose(np.asarray(run(logits, f)), expected, rtol=1e-6)


def test_logit_bias_against_transformers():
    logits = np.float32(np.random.default_rng(1).normal(size=(2, 100)))
    bias = {3: 4.0, 99: -7.5, 0: 100.0}
    oracle = SequenceBiasLogitsProcessor({(token,): value for token, value in bias.items()})
    expected = oracle(torch.zeros((2, 1), dtype=torch.long), torch.from_numpy(logits.copy())).numpy()
    got = run(logits, full_inputs([SamplingParams(logit_bias=bias)] * 2, 100))
    np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-6)


def test_logit_bias_of_as_many_tokens_as_allowed():
    logits = np.float32(np.random.default_rng(2).normal(size=(2, 1500)))
    bias = {int(t): float(t % 7) for t in np.random.default_rng(3).permutation(1500)[:1024]}
    got = run(logits, full_inputs([SamplingParams(logit_bias=bias), SamplingParams()], 1500))
    expected = logits.copy()
    expected[0, list(bias)] += np.float32(list(bias.values()))
    np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-6)


def test_bad_words_against_transformers():
    rng = np.random.default_rng(4)
    words = {"a": [7], "b": [1, 2], "c": [2, 2, 3], "d": [3, 1]}
    encode = (words | {" " + key: ids for key, ids in words.items()}).__getitem__
    oracle = NoBadWordsLogitsProcessor(list(words.values()))
    outputs = rng.integers(0, 4, (64, 5))
    logits = np.float32(rng.normal(size=(64, 33)))
    expected = oracle(torch.from_numpy(outputs), torch.from_numpy(logits.copy())).numpy()
    params = [SamplingParams(bad_words=list(words))] * 64
    got = run(logits, full_inputs(params, 33, outputs=outputs.tolist(), encode=encode))
    np.testing.assert_array_equal(np.asarray(got), expected)
    assert np.isneginf(expected).sum() > 64  # more than the word of one token was at stake


@pytest.mark.parametrize("num_output", [0, 1, 2, 3])
def test_min_tokens_against_transformers(num_output):
    logits = np.float32(np.random.default_rng(5).normal(size=(1, 33)))
    tokens = np.full((1, 4 + num_output), 9)
    oracle = MinNewTokensLengthLogitsProcessor(4, 2, [5, 32], device="cpu")
    expected = oracle(torch.from_numpy(tokens), torch.from_numpy(logits.copy())).numpy()
    f = full_inputs(
        [SamplingParams(min_tokens=2, stop_token_ids=[32])],
        33,
        prompts=[[9] * 4],
        outputs=[[9] * num_output],
        eos=[5],
    )
    np.testing.assert_array_equal(np.asarray(run(logits, f)), expected)
