"""Scores of a prompt's own tokens, chunk by chunk, against scipy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import log_softmax

from vllm_jax.runner import programs


class Output(nnx.Module):
    """The part of a model that scores need."""

    def __init__(self, table: np.ndarray):
        self.table = nnx.Param(jnp.asarray(table))

    def logits(self, hidden):
        return hidden @ self.table[...].T


@pytest.mark.parametrize("num_logprobs", [0, 3])
@pytest.mark.parametrize("num_tokens", [5, programs._SCORE_CHUNK, programs._SCORE_CHUNK + 7])
def test_scores_are_those_of_scipy(num_tokens, num_logprobs):
    """Also with no listed tokens at all, which a server may be started with."""
    rng = np.random.default_rng(num_tokens)
    table, hidden = rng.standard_normal((19, 8)), rng.standard_normal((num_tokens, 8))
    targets = rng.integers(0, 19, num_tokens)
    leaves, rebuild = programs.rebuilder(Output(table.astype(np.float32)))
    found = programs.score(
        leaves,
        jnp.asarray(hidden, jnp.float32),
        jnp.asarray(targets, jnp.int32),
        rebuild=rebuild,
        num_logprobs=num_logprobs,
    )
    expected = log_softmax(hidden @ table.T, axis=-1)
    np.testing.assert_allclose(
        found.token_logprob, expected[np.arange(num_tokens), targets], rtol=1e-4, atol=1e-4
    )
    assert found.top_logprobs.shape == (num_tokens, num_logprobs)
    listed = np.take_along_axis(expected, np.asarray(found.top_ids), axis=1)
    np.testing.assert_allclose(found.top_logprobs, listed, rtol=1e-4, atol=1e-4)
