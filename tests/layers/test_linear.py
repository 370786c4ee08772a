"""Linear layers against torch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from vllm_jax.layers.linear import Linear, linear, matmul, side_by_side
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 6, 7, 16, 17, 100, 300])
def test_the_forms_agree(dtype, rows):
    """The native kernel takes matrices; what has more dimensions goes to XLA."""
    x, weight, bias = arrays(dtype, (rows, 100), (37, 100), (37,))
    native = jax.jit(linear)(x, weight, bias)
    xla = jax.jit(linear)(x[None], weight, bias)[0]
    tolerance = 1e-5 if dtype == "float32" else 2**-7
    largest = float(jnp.abs(xla).max())
    np.testing.assert_allclose(to_torch(native), to_torch(xla), rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize("bias", [False, True])
def test_side_by_side(bias):
    layers = [Linear(24, n, bias=bias, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(n)) for n in (5, 33, 64)]
    (x,) = arrays("float32", (3, 24))
    for together, layer in zip(side_by_side(x, *layers), layers, strict=True):
        np.testing.assert_array_equal(together, layer(x))


def test_gradient_and_vmap_of_few_rows():
    """Training differentiates the same layers, over a batch of sequences."""
    x, weight, bias = arrays("float32", (4, 3, 24), (10, 24), (10,))

    def loss(weight, bias):
        return jnp.sum(jnp.square(jax.vmap(lambda rows: linear(rows, weight, bias))(x)))

    got = jax.jit(jax.grad(loss, argnums=(0, 1)))(weight, bias)
    w, b = to_torch(weight).requires_grad_(), to_torch(bias).requires_grad_()
    torch.nn.functional.linear(to_torch(x), w, b).square().sum().backward()
    for ours, theirs in zip(got, (w.grad, b.grad), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_other_platforms_get_no_native_call():
    x, weight = arrays("bfloat16", (4, 32), (8, 32))
    lowered = jax.jit(matmul).trace(x, weight).lower(lowering_platforms=("tpu",))
    assert "vllm_jax_linear" not in lowered.as_text()


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
