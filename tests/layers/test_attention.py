"""The shared attention layer: with pages and without, it is the same function."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vllm_jax.kernels.attention import kv_pages_shape
from vllm_jax.kernels.metadata import AttentionMetadata
from vllm_jax.layers.alibi import alibi_slopes
from vllm_jax.layers.attention import Attention

LENGTH = 21
LAYER = Attention(6, 3, 16, 0.25, alibi_slopes(6), sliding_window=9, soft_cap=4.0)


def draw(seed: int = 0) -> list[jnp.ndarray]:
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal((LENGTH, n * 16)), jnp.float32) for n in (6, 3, 3)]


@pytest.mark.parametrize("sinks", [None, np.linspace(-1, 4, 6, dtype=np.float32)], ids=["", "sinks"])
@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_pages_change_nothing(implementation, sinks):
    """The whole sequence at once without pages; in three chunks and a token with them."""
    q, k, v = draw()
    expected, none = LAYER(q, k, v, sinks=None if sinks is None else jnp.asarray(sinks))
    if sinks is not None:
        assert np.abs(expected - LAYER(q, k, v)[0]).max() > 0.1, "they take their part"
    assert none is None
    assert expected.shape == (LENGTH, 96)
    pages = jnp.full(kv_pages_shape(5, 8, 3, 16), jnp.nan)
    table = jnp.asarray([[3, 0, 4]], jnp.int32)

    @jax.jit
    def step(q, k, v, pages, start, count):
        metadata = AttentionMetadata(
            table, start + count, jnp.stack([0 * count[0], count[0]]), False, implementation
        )
        return LAYER(q, k, v, pages, metadata, sinks=sinks)

    start = 0
    for count in (8, 3, 9, 1):
        part = (jnp.zeros((10, x.shape[1])).at[:count].set(x[start : start + count]) for x in (q, k, v))
        out, pages = step(*part, pages, jnp.asarray([start]), jnp.asarray([count]))
        np.testing.assert_allclose(out[:count], expected[start : start + count], rtol=1e-5, atol=1e-5)
        start += count


def test_head_axis_may_be_given():
    q, k, v = draw()
    flat, _ = LAYER(q, k, v)
    split, _ = LAYER(*(x.reshape(LENGTH, -1, 16) for x in (q, k, v)))
    np.testing.assert_array_equal(flat, split)


def test_pages_need_a_batch():
    q, k, v = draw()
    with pytest.raises(ValueError, match="metadata"):
        LAYER(q, k, v, jnp.zeros(kv_pages_shape(5, 8, 3, 16)))
