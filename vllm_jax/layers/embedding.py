"""Token embeddings, and the same table read the other way as a tied output layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from vllm_jax.layers.linear import matmul

NO_TOKEN = 2**31 - 1
"""The id of what pads a step."""


class Embedding(nnx.Module):
    """``weight [num_embeddings, features]``."""

    def __init__(self, num_embeddings: int, features: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        table = jax.random.normal(rngs.params(), (num_embeddings, features), jnp.float32) * 0.02
        self.weight = nnx.Param(table.astype(dtype))

    def __call__(self, ids: jax.Array) -> jax.Array:
        """``ids [...]`` int -> ``[..., features]``; zeros for ids outside the table, as :data:`NO_TOKEN`."""
        table = self.weight[...]
        is_token = (ids >= 0) & (ids < table.shape[0])
        return jnp.where(is_token[..., None], jnp.take(table, ids, axis=0, mode="clip"), 0)

    def attend(self, hidden: jax.Array) -> jax.Array:
        """``hidden [..., features]`` -> logits ``[..., num_embeddings]`` float32 (tied output layer)."""
        return matmul(hidden, self.weight[...])
