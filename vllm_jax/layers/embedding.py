"""Token embeddings, and the same table read the other way as a tied output layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from vllm_jax.layers.linear import matmul


class Embedding(nnx.Module):
    """``weight [num_embeddings, features]``."""

    def __init__(self, num_embeddings: int, features: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        table = jax.random.normal(rngs.params(), (num_embeddings, features), jnp.float32) * 0.02
        self.weight = nnx.Param(table.astype(dtype))

    def __call__(self, ids: jax.Array) -> jax.Array:
        """``ids [...]`` int -> ``[..., features]``; ids outside the table are clamped to its ends."""
        return jnp.take(self.weight[...], ids, axis=0, mode="clip")

    def attend(self, hidden: jax.Array) -> jax.Array:
        """``hidden [..., features]`` -> logits ``[..., num_embeddings]`` float32 (tied output layer)."""
        return matmul(hidden, self.weight[...])
