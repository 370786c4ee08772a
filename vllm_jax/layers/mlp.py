"""The gated MLP of the Llama family, and the activation functions configs may name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp
from flax import nnx

from vllm_jax.layers.linear import Linear, Norm, gated, side_by_side

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = MappingProxyType(
    {
        "gelu": partial(jax.nn.gelu, approximate=False),
        "gelu_new": partial(jax.nn.gelu, approximate=True),
        "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
        "relu": jax.nn.relu,
        "silu": jax.nn.silu,
        "swish": jax.nn.silu,
    }
)
"""Activation functions by the names Hugging Face configs use."""


class GatedMLP(nnx.Module):
    """``down(act(gate(x)) * up(x))`` (Shazeer 2020, arXiv:2002.05202).

    Args:
        features: width of the residual stream.
        inner: width between the projections.
        activation: a name in :data:`ACTIVATIONS`.
        bias: whether all three projections have one.
        dtype: of the parameters.
        rngs: draws the initial parameters.
    """

    def __init__(
        self, features: int, inner: int, *, activation: str, bias: bool, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        self.activation = activation
        self.gate_proj = Linear(features, inner, bias=bias, dtype=dtype, rngs=rngs)
        self.up_proj = Linear(features, inner, bias=bias, dtype=dtype, rngs=rngs)
        self.down_proj = Linear(inner, features, bias=bias, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: jax.Array, *, norm: Norm | None = None, residual: jax.Array | None = None
    ) -> jax.Array:
        """``x [..., features]`` -> the same shape and dtype; with both, ``residual + mlp(norm(x))``."""
        if self.activation in ("silu", "swish"):
            inner = gated(x, self.gate_proj, self.up_proj, norm=norm)
        else:
            gate, up = side_by_side(x, self.gate_proj, self.up_proj, norm=norm)
            inner = ACTIVATIONS[self.activation](gate) * up
        return self.down_proj(inner, residual=residual)
