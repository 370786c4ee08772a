"""Attention without pages against PyTorch's own, values and gradients."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.gpt_oss import modeling_gpt_oss

from vllm_jax.kernels.dense import causal_attention

CASES = {
    "mha": (23, 4, 4, 16, None, False),
    "gqa_alibi": (23, 6, 2, 16, None, True),
    "mqa_window_alibi": (23, 3, 1, 80, 5, True),
    "one_token": (1, 2, 2, 64, None, True),
    "window_of_one": (9, 2, 2, 64, 1, False),
}


def torch_attention(q, k, v, scale, slopes, window):
    """PyTorch's scaled_dot_product_attention with bias and mask as one added tensor."""
    length = q.shape[0]
    distance = torch.arange(length)[None, :] - torch.arange(length)[:, None]
    hidden = distance > 0
    if window is not None:
        hidden |= distance <= -window
    bias = torch.zeros(q.shape[1], length, length, dtype=q.dtype)
    if slopes is not None:
        bias += torch.from_numpy(slopes).to(q.dtype)[:, None, None] * distance
    bias = bias.masked_fill(hidden, -torch.inf)
    out = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(0, 1)[None] for x in (q, k, v)), attn_mask=bias[None], scale=scale, enable_gqa=True
    )
    return out[0].transpose(0, 1)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name):
    length, heads, kv_heads, width, window, alibi = CASES[name]
    rng = np.random.default_rng(sorted(CASES).index(name))
    slopes = rng.uniform(0.01, 0.5, heads).astype(np.float32) if alibi else None
    shapes = [(length, heads, width), *[(length, kv_heads, width)] * 2, (length, heads, width)]
    q, k, v, weight = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)

    attend = partial(causal_attention, scale=0.3, sliding_window=window)
    attend = partial(attend, alibi_slopes=None if slopes is None else jnp.asarray(slopes))

    @jax.jit
    def ours(q, k, v):
        out, pullback = jax.vjp(attend, q, k, v)
        return out, pullback(jnp.asarray(weight))

    leaves = [torch.from_numpy(x).double().requires_grad_() for x in (q, k, v)]
    expected = torch_attention(*leaves, 0.3, slopes, window)
    expected.backward(torch.from_numpy(weight).double())

    out, gradients = ours(q, k, v)
    np.testing.assert_allclose(out, expected.detach().numpy(), rtol=1e-5, atol=1e-5)
    for gradient, leaf in zip(gradients, leaves, strict=True):
        np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_soft_cap():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((7, 1, 8)) * 3 for _ in range(3))
    scores = 2.0 * np.tanh(0.5 * q[:, 0] @ k[:, 0].T / 2.0)
    weights = np.where(np.tri(7) > 0, np.exp(scores), 0.0)
    expected = weights / weights.sum(1, keepdims=True) @ v[:, 0]
    out = causal_attention(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)), scale=0.5, soft_cap=2.0)
    np.testing.assert_allclose(out[:, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [None, 5])
def test_sinks_are_those_of_gpt_oss(window):
    """Values and gradients, of the sinks too, beside the function that transformers runs gpt-oss with."""
    length, heads, kv_heads, width = 19, 6, 2, 16
    rng = np.random.default_rng(8)
    shapes = [(length, heads, width), *[(length, kv_heads, width)] * 2, (heads,), (length, heads, width)]
    q, k, v, sinks, weight = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    sinks *= 3

    def attend(q, k, v, sinks):
        return causal_attention(q, k, v, scale=0.25, sliding_window=window, sinks=sinks)

    out, pullback = jax.vjp(attend, *(jnp.asarray(x) for x in (q, k, v, sinks)))
    gradients = pullback(jnp.asarray(weight))

    leaves = [torch.from_numpy(x).double().requires_grad_() for x in (q, k, v, sinks)]
    layer = torch.nn.Module()
    layer.num_key_value_groups, layer.sinks, layer.training = heads // kv_heads, leaves[3], False
    distance = torch.arange(length)[None, :] - torch.arange(length)[:, None]
    hidden = (distance > 0) if window is None else (distance > 0) | (distance <= -window)
    expected, _ = modeling_gpt_oss.eager_attention_forward(
        layer,
        *(x.transpose(0, 1)[None] for x in leaves[:3]),
        torch.zeros(length, length, dtype=torch.float64).masked_fill(hidden, -torch.inf)[None, None],
        scaling=0.25,
    )
    expected[0].backward(torch.from_numpy(weight).double())
    np.testing.assert_allclose(out, expected[0].detach().numpy(), rtol=1e-5, atol=1e-5)
    for gradient, leaf in zip(gradients, leaves, strict=True):
        np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_vmap_over_a_batch():
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((3, 5, 2, 8)), jnp.float32) for _ in range(3))
    attend = partial(causal_attention, scale=1.0)
    together = jax.vmap(attend)(q, k, v)
    for i in range(3):
        np.testing.assert_allclose(together[i], attend(q[i], k[i], v[i]), rtol=1e-6, atol=1e-6)


def test_bfloat16_is_as_good_as_pytorch():
    rng = np.random.default_rng(0)
    q, k, v = (torch.from_numpy(rng.standard_normal((64, 4, 64))).bfloat16() for _ in range(3))
    exact = torch_attention(q.double(), k.double(), v.double(), 0.125, None, None)
    rounding = (torch_attention(q, k, v, 0.125, None, None).double() - exact).abs().max()
    ours = causal_attention(*(jnp.asarray(x.float().numpy(), jnp.bfloat16) for x in (q, k, v)), scale=0.125)
    assert ours.dtype == jnp.bfloat16
    assert np.abs(np.asarray(ours, np.float64) - exact.numpy()).max() <= 2 * rounding
