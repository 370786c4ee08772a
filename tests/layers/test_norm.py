"""Norms against PyTorch and transformers, roundings included."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from vllm_jax.layers.norm import LayerNorm, RMSNorm, layer_norm, rms_norm

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def draw(dtype: str, *shape: int, mean: float = 0.0) -> tuple[jnp.ndarray, torch.Tensor]:
    """The same random numbers for both libraries."""
    drawn = np.random.default_rng([*shape, int(mean)]).normal(mean, 1.0, shape).astype(np.float32)
    theirs = torch.from_numpy(drawn).to(DTYPES[dtype])
    return jnp.asarray(theirs.float().numpy(), dtype), theirs


def assert_equal_up_to_the_last_bit(ours: jnp.ndarray, theirs: torch.Tensor, dtype: str) -> None:
    assert ours.dtype == dtype
    rtol = 3e-6 if dtype == "float32" else 2**-7
    np.testing.assert_allclose(
        np.asarray(ours, np.float32), theirs.detach().float().numpy(), rtol=rtol, atol=3e-6
    )
    if dtype == "bfloat16":  # A sum in another order may tip a rounding, but rarely.
        same = np.asarray(ours, np.float32) == theirs.detach().float().numpy()
        assert same.mean() > 0.99


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm(dtype, bias):
    x, x_torch = draw(dtype, 17, 96, mean=3.0)
    weight, weight_torch = draw(dtype, 96, mean=1.0)
    shift, shift_torch = draw(dtype, 96)
    theirs = torch.nn.functional.layer_norm(x_torch, (96,), weight_torch, shift_torch if bias else None, 1e-5)
    assert_equal_up_to_the_last_bit(layer_norm(x, weight, shift if bias else None, 1e-5), theirs, dtype)

    module = LayerNorm(96, eps=1e-5, bias=bias, dtype=jnp.dtype(dtype))
    assert (module.bias is not None) == bias
    np.testing.assert_array_equal(module(x), layer_norm(x, jnp.ones(96), None, 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_of_llama(dtype):
    x, x_torch = draw(dtype, 5, 3, 64, mean=1.0)
    weight, weight_torch = draw(dtype, 64, mean=1.0)
    reference = LlamaRMSNorm(64, eps=1e-6).to(DTYPES[dtype])
    reference.weight.data = weight_torch
    module = RMSNorm(64, eps=1e-6, dtype=jnp.dtype(dtype))
    module.weight.set_value(weight)
    assert_equal_up_to_the_last_bit(module(x), reference(x_torch), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_that_scales_in_float32(dtype):
    x, x_torch = draw(dtype, 11, 80, mean=1.0)
    weight, weight_torch = draw(dtype, 80, mean=1.0)
    theirs = torch.nn.functional.rms_norm(x_torch.float(), (80,), weight_torch.float(), 1e-5).to(
        x_torch.dtype
    )
    assert_equal_up_to_the_last_bit(rms_norm(x, weight, 1e-5, scale_in_float32=True), theirs, dtype)
    module = RMSNorm(80, eps=1e-5, dtype=jnp.dtype(dtype), scale_in_float32=True)
    module.weight.set_value(weight)
    np.testing.assert_array_equal(module(x), rms_norm(x, weight, 1e-5, scale_in_float32=True))


def test_constant_rows_stay_finite():
    constant = jnp.full((2, 8), 5.0)
    np.testing.assert_array_equal(layer_norm(constant, None, None, 1e-5), jnp.zeros((2, 8)))
    np.testing.assert_array_equal(rms_norm(jnp.zeros((2, 8)), jnp.ones(8), 1e-5), jnp.zeros((2, 8)))
