"""What the native kernel does around a product, against the same steps in float64 and by XLA."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special

from vllm_jax.kernels.cpu.library import available
from vllm_jax.layers import linear as linear_module
from vllm_jax.layers.linear import Linear, activated, gated, side_by_side
from vllm_jax.layers.norm import LayerNorm, RMSNorm

pytestmark = pytest.mark.skipif(not available(), reason="the native kernels are not built")

ROWS = (0, 1, 3, 8, 17, 32)
FEATURES = 75  # no multiple of a register


def draw(dtype: str, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng().standard_normal(shape), jnp.dtype(dtype))


def layer(dtype: str, into: int, out: int, *, bias: bool) -> Linear:
    made = Linear(into, out, bias=bias, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
    made.weight[...] = draw(dtype, out, into) / into**0.5
    if made.bias is not None:
        made.bias[...] = draw(dtype, out)
    return made


def norms(dtype: str) -> list[RMSNorm | LayerNorm]:
    made = [
        RMSNorm(FEATURES, eps=1e-5, dtype=jnp.dtype(dtype)),
        RMSNorm(FEATURES, eps=1e-5, dtype=jnp.dtype(dtype), scale_in_float32=True),
        LayerNorm(FEATURES, eps=1e-5, bias=False, dtype=jnp.dtype(dtype)),
        LayerNorm(FEATURES, eps=1e-5, bias=True, dtype=jnp.dtype(dtype)),
    ]
    for norm in made:
        norm.weight[...] = draw(dtype, FEATURES)
    made[-1].bias[...] = draw(dtype, FEATURES)
    return made


def float64(x: jax.Array) -> np.ndarray:
    return np.asarray(x, np.float32).astype(np.float64)


def normed(norm: RMSNorm | LayerNorm, x: jax.Array) -> np.ndarray:
    x64 = float64(x)
    if isinstance(norm, LayerNorm):
        x64 = x64 - x64.mean(-1, keepdims=True)
    y = x64 / np.sqrt(np.square(x64).mean(-1, keepdims=True) + norm.eps) * float64(norm.weight[...])
    return y if isinstance(norm, RMSNorm) or norm.bias is None else y + float64(norm.bias[...])


def applied(made: Linear, x: np.ndarray) -> np.ndarray:
    y = x @ float64(made.weight[...]).T
    return y if made.bias is None else y + float64(made.bias[...])


def check(got: jax.Array, wanted: np.ndarray, dtype: str, slack: np.ndarray | float = 0.0) -> None:
    """``slack``: what roundings before the last one may add."""
    assert got.dtype == dtype and got.shape == wanted.shape
    tolerance = 2e-5 if dtype == "float32" else 0.04
    assert np.all(np.abs(float64(got) - wanted) <= tolerance * (1 + np.abs(wanted)) + slack)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bias", [False, True])
def test_norm_in_front(dtype, bias):
    layers = [layer(dtype, FEATURES, out, bias=bias) for out in (35, 4)]
    for norm in norms(dtype):
        for rows in ROWS:
            x = 3 * draw(dtype, rows, FEATURES) + 1
            for y, made in zip(side_by_side(x, *layers, norm=norm), layers, strict=True):
                check(y, applied(made, normed(norm, x)), dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bias", [False, True])
def test_gate_and_residual(dtype, bias):
    norm = norms(dtype)[0]
    gate, up = (layer(dtype, FEATURES, 67, bias=bias) for _ in range(2))
    down = layer(dtype, 67, FEATURES, bias=bias)
    for rows in ROWS:
        x = draw(dtype, rows, FEATURES)
        inner = gated(x, gate, up, norm=norm)
        g, u = (applied(made, normed(norm, x)) for made in (gate, up))
        # A bfloat16 is off by 2^-9 of itself, here and in what it is the sum of; silu's slope is below 1.1.
        g_off, u_off = (
            2**-8 * (np.abs(normed(norm, x)) @ np.abs(float64(made.weight[...])).T + np.abs(y))
            for made, y in ((gate, g), (up, u))
        )
        silu = g / (1 + np.exp(-g))
        slack = 1.1 * g_off * (np.abs(u) + u_off) + np.abs(silu) * u_off
        check(inner, silu * u, dtype, slack if dtype == "bfloat16" else 0.0)
        check(down(inner, residual=x), float64(x) + applied(down, float64(inner)), dtype)


def test_the_gate_far_out():
    """SiLU over everything a float32 gate may be, by its own exponential."""
    far = [0.0, -0.0, 1e-30, -1e-30, 3e38, -3e38, np.inf, np.nan]
    values = np.concatenate([np.linspace(-120, 120, 4001), far])
    gate, up = (layer("float32", 1, len(values), bias=False) for _ in range(2))
    gate.weight[...] = jnp.asarray(values[:, None], jnp.float32)
    up.weight[...] = jnp.ones((len(values), 1))
    got = float64(gated(jnp.ones((1, 1)), gate, up))[0]
    v = float64(gate.weight[...])[:, 0]
    with np.errstate(over="ignore"):
        wanted = v / (1 + np.exp(-v))
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-35)


ACTIVATIONS = {
    "gelu": lambda x: x / 2 * special.erfc(-x / np.sqrt(2)),
    "gelu_tanh": lambda x: x * special.expit(np.sqrt(8 / np.pi) * (x + 0.044715 * x**3)),
    "relu": lambda x: np.maximum(x, 0.0),
    "silu": lambda x: x * special.expit(x),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_behind(activation, dtype):
    for norm in (None, norms(dtype)[3]):
        made = layer(dtype, FEATURES, 67, bias=norm is not None)
        for rows in ROWS:
            x = draw(dtype, rows, FEATURES)
            inner = applied(made, float64(x) if norm is None else normed(norm, x))
            check(activated(x, made, activation, norm=norm), ACTIVATIONS[activation](inner), dtype)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_far_out(activation):
    """Over everything a float32 may be; what is nothing beside 1 may be nothing."""
    far = [0.0, -0.0, 1e-30, -1e-30, 3e38, np.inf, np.nan]
    values = np.concatenate([np.linspace(-120, 120, 4001), np.linspace(-6, 6, 4001), far])
    made = layer("float32", 1, len(values), bias=False)
    made.weight[...] = jnp.asarray(values[:, None], jnp.float32)
    got = float64(activated(jnp.ones((1, 1)), made, activation))[0]
    with np.errstate(over="ignore"):
        wanted = ACTIVATIONS[activation](float64(made.weight[...])[:, 0])
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rounds_where_xla_rounds(dtype, monkeypatch):
    """The XLA form's numbers, but for the order of the sums: a bfloat16 may differ in its last bit.

    Of the largest numbers' last bit, that is: the residual cancels some, and their error stays.
    """
    norm, x = norms(dtype)[0], draw(dtype, 5, FEATURES)
    gate, up = (layer(dtype, FEATURES, 64, bias=True) for _ in range(2))
    down = layer(dtype, 64, FEATURES, bias=True)

    def mlps() -> list[np.ndarray]:
        inner = [gated(x, gate, up, norm=norm), *(activated(x, up, name, norm=norm) for name in ACTIVATIONS)]
        return [float64(down(some, residual=x)) for some in inner]

    native = mlps()
    monkeypatch.setattr(linear_module, "available", lambda: False)
    tolerance = 1e-5 if dtype == "float32" else 2**-6
    for ours, xla in zip(native, mlps(), strict=True):
        np.testing.assert_allclose(ours, xla, rtol=tolerance, atol=tolerance * np.abs(xla).max())
