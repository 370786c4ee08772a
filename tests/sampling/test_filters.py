"""Temperature, top-k, top-p and min-p: the exact distribution, against NumPy and against transformers."""

import jax
import numpy as np
import pytest
import torch
from sampling_oracle import distribution, random_inputs, softmax
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vllm_jax.sampling import sampler
from vllm_jax.sampling_params import SamplingParams

WIDTHS = [1, 31, 128, 129, 1000]
SETTINGS = [
    {},
    {"temperature": 0.1},
    {"temperature": 2.0},
    {"top_k": 1},
    {"top_k": 2},
    {"top_k": 40},
    {"top_k": 5000},
    {"top_p": 0.9},
    {"top_p": 1e-6},
    {"top_p": 0.5, "temperature": 0.5},
    {"top_p": 0.999, "temperature": 2.0},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"min_p": 0.3, "temperature": 2.0},
    {"top_k": 10, "top_p": 0.8},
    {"top_k": 50, "top_p": 0.5, "min_p": 0.1, "temperature": 0.7},
    {"top_k": 3, "min_p": 0.02},
    {"top_p": 0.95, "min_p": 0.02, "temperature": 1.5},
]


@jax.jit
def _weights(logits, r):
    blocks = sampler.blocked(logits)
    return sampler.filtered_weights(blocks, r).reshape(logits.shape[0], -1)


def probabilities(logits: np.ndarray, settings: list[dict]) -> np.ndarray:
    """The sampler's own distribution ``[S, V]``, with the columns of the last block's padding checked."""
    rows, vocab = logits.shape
    params = [SamplingParams(**s) for s in settings]
    weights = np.asarray(
        _weights(np.float32(logits), random_inputs(params, range(rows), [0] * rows)), np.float64
    )
    assert (weights[:, vocab:] == 0).all()
    return weights[:, :vocab] / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("vocab", WIDTHS)
@pytest.mark.parametrize("spread", [0.01, 3.0, 30.0])
def test_against_numpy(vocab, spread):
    logits = (np.random.default_rng(vocab).normal(size=(len(SETTINGS), vocab)) * spread).astype(np.float32)
    got = probabilities(logits, SETTINGS)
    for row, setting in enumerate(SETTINGS):
        expected = distribution(logits[row], **setting)
        assert set(np.flatnonzero(got[row] > 1e-30)) == set(np.flatnonzero(expected > 1e-30)), setting
        np.testing.assert_allclose(got[row], expected, rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("vocab", [50, 1000])
def test_against_transformers(vocab):
    logits = (np.random.default_rng(1).normal(size=(len(SETTINGS), vocab)) * 2).astype(np.float32)
    got = probabilities(logits, SETTINGS)
    for row, setting in enumerate(SETTINGS):
        scores = torch.from_numpy(logits[row : row + 1])
        scores = TemperatureLogitsWarper(float(setting.get("temperature", 1.0)))(None, scores)
        # min-p first, which is where vLLM has it; transformers itself has it last.
        if "min_p" in setting:
            scores = MinPLogitsWarper(setting["min_p"])(None, scores)
        if "top_k" in setting:
            scores = TopKLogitsWarper(setting["top_k"])(None, scores)
        if "top_p" in setting:
            scores = TopPLogitsWarper(setting["top_p"])(None, scores)
        expected = torch.softmax(scores, -1)[0].numpy()
        np.testing.assert_allclose(got[row], expected, rtol=1e-4, atol=1e-7, err_msg=str(setting))


def test_ties_at_the_threshold_are_all_kept():
    logits = np.float32([[3, 1, 1, 1, 0, -1]] * 4)
    got = probabilities(logits, [{"top_k": 2}, {"top_p": 0.7}, {"min_p": float(np.exp(-2.0))}, {"top_k": 4}])
    assert (got[:2] > 0).tolist() == [[True] * 4 + [False] * 2] * 2
    assert (got[3] > 0).tolist() == [True] * 4 + [False] * 2
    equal = probabilities(np.zeros((3, 300), np.float32), [{"top_k": 1}, {"top_p": 0.01}, {"min_p": 1.0}])
    np.testing.assert_allclose(equal, 1 / 300)


def test_impossible_tokens_stay_impossible():
    logits = np.full((4, 200), -np.inf, np.float32)
    logits[:, [3, 150]] = [1.0, 2.0]
    got = probabilities(logits, [{}, {"top_k": 5}, {"top_p": 0.99}, {"min_p": 0.001}])
    expected = np.zeros(200)
    expected[[3, 150]] = softmax(np.array([1.0, 2.0]))
    np.testing.assert_allclose(got, np.tile(expected, (4, 1)), rtol=1e-5)


def test_filters_of_one_row_do_not_touch_another():
    logits = np.random.default_rng(5).normal(size=(len(SETTINGS), 300)).astype(np.float32)
    together = probabilities(logits, SETTINGS)
    for row, setting in enumerate(SETTINGS):
        alone = probabilities(logits[row : row + 1], [setting])
        assert ((alone[0] > 0) == (together[row] > 0)).all()
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-6)


def test_top_p_near_thresholds_keeps_enough_mass_and_no_more():
    logits = np.float32(np.random.default_rng(3).normal(size=(64, 5000)) * 4)
    top_p = np.linspace(0.01, 0.9999, 64)
    got = probabilities(logits, [{"top_p": float(p)} for p in top_p])
    for row, p in enumerate(top_p):
        probs = softmax(np.float64(logits[row]))
        kept = probs[got[row] > 0]
        assert kept.sum() >= p - 1e-6
        assert kept.sum() - kept.min() < p + 1e-6
        assert kept.min() > probs[got[row] == 0].max()
