"""Linear layers against torch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from vllm_jax.layers.linear import Linear, linear, matmul
from vllm_jax.layers.mlp import ACTIVATIONS


def arrays(dtype: str, *shapes: tuple[int, ...]) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), jnp.dtype(dtype)) for shape in shapes]


def to_torch(x: jax.Array) -> torch.Tensor:
    return torch.tensor(np.asarray(x.astype(jnp.float32)))


@pytest.mark.parametrize("rows", [(1,), (2,), (7,), (1, 1), (3, 4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bias", [False, True])
def test_linear(dtype, rows, bias):
    x, weight, b = arrays(dtype, (*rows, 24), (10, 24), (10,))
    y = linear(x, weight, b if bias else None)
    assert y.dtype == dtype and y.shape == (*rows, 10)
    # Products of the rounded inputs, summed in float32 and rounded once.
    exact = torch.nn.functional.linear(to_torch(x), to_torch(weight), to_torch(b) if bias else None)
    tolerance = 1e-5 if dtype == "float32" else 2**-8
    np.testing.assert_allclose(to_torch(y), exact, rtol=tolerance, atol=tolerance)


def test_matmul_keeps_the_float32_sums():
    x, weight = arrays("bfloat16", (5, 64), (9, 64))
    y = matmul(x, weight)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, to_torch(x) @ to_torch(weight).T, rtol=1e-5, atol=1e-5)


def test_a_row_does_not_depend_on_its_batch():
    x, weight = arrays("bfloat16", (4, 64), (32, 64))
    alone = [linear(x[i : i + 1], weight)[0] for i in range(4)]
    np.testing.assert_array_equal(jnp.stack(alone), linear(x, weight))


def test_module_has_the_layout_of_checkpoints():
    layer = Linear(6, 4, bias=True, dtype=jnp.dtype("bfloat16"), rngs=nnx.Rngs(0))
    assert layer.weight.shape == (4, 6) and layer.bias.shape == (4,)
    assert layer.weight.dtype == layer.bias.dtype == jnp.bfloat16
    assert layer(jnp.ones((3, 6), jnp.bfloat16)).shape == (3, 4)
    assert Linear(6, 4, bias=False, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0)).bias is None


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    from transformers.activations import ACT2FN

    x = np.linspace(-6, 6, 101, dtype=np.float32)
    np.testing.assert_allclose(ACTIVATIONS[name](x), ACT2FN[name](torch.tensor(x)), rtol=0, atol=2e-6)
