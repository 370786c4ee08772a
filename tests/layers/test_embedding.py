"""The embedding table, read both ways."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from vllm_jax.layers.embedding import NO_TOKEN, Embedding


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_ways(dtype):
    layer = Embedding(50, 32, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
    assert layer.weight[...].dtype == dtype
    table = torch.from_numpy(np.array(layer.weight[...], np.float32))
    ids = np.array([3, 49, 0, 3])
    hidden = layer(jnp.asarray(ids))
    assert hidden.dtype == dtype
    np.testing.assert_array_equal(
        hidden.astype(jnp.float32), torch.nn.functional.embedding(torch.tensor(ids), table)
    )
    logits = layer.attend(hidden)
    assert logits.dtype == jnp.float32, "logits are not rounded to the model's dtype"
    expected = torch.from_numpy(np.array(hidden, np.float32)) @ table.T
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_what_is_no_token_is_zero():
    layer = Embedding(4, 2, dtype=jnp.float32, rngs=nnx.Rngs(0))
    embedded = layer(jnp.asarray([-1, 3, 4, NO_TOKEN]))
    np.testing.assert_array_equal(embedded[1], layer.weight[...][3])
    np.testing.assert_array_equal(embedded[jnp.asarray([0, 2, 3])], 0)
