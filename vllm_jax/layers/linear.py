"""Matrix products with the weight stored ``[out, in]``, the layout of the checkpoints.

The one place that knows which form XLA runs well. Measured on a 2-core x86 CPU: bfloat16 products want
float32 accumulation and at least two rows (a single row falls into a naive path that is ten times slower).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


def matmul(x: jax.Array, weight: jax.Array) -> jax.Array:
    """``x [..., in]`` times ``weight [out, in]`` transposed -> ``[..., out]`` float32 accumulator.

    float32 operands are multiplied as float32 on every backend: TPUs and GPUs would round them otherwise.
    """
    lonely = x.dtype == jnp.bfloat16 and x.ndim == 2 and x.shape[0] == 1
    if lonely:
        x = jnp.concatenate([x, jnp.zeros_like(x)], axis=0)
    y = jax.lax.dot_general(
        x,
        weight,
        (((x.ndim - 1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
    return y[:1] if lonely else y


def linear(x: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """``x [..., in] @ weight[out, in].T + bias[out]`` -> ``[..., out]`` in the dtype of ``x``."""
    y = matmul(x, weight)
    if bias is not None:
        y = y + bias.astype(jnp.float32)
    return y.astype(x.dtype)


class Linear(nnx.Module):
    """``weight [out, in]`` and an optional ``bias [out]``."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, dtype: jnp.dtype, rngs: nnx.Rngs):
        scale = in_features**-0.5
        self.weight = nnx.Param(
            (jax.random.normal(rngs.params(), (out_features, in_features), jnp.float32) * scale).astype(dtype)
        )
        self.bias = nnx.Param(jnp.zeros((out_features,), dtype)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """``x [..., in]`` -> ``[..., out]``, same dtype."""
        return linear(x, self.weight[...], None if self.bias is None else self.bias[...])
