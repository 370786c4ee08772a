"""Which queries the rows of a block are. Traced inside a kernel; knows neither pages nor scores.

    row r of M      token r // heads of the tile, query head r % heads of the block's
    blocks          a KV head has one, or several where it has more query heads than a block has rows

Decode is a tile of one token.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plgpu

from vllm_jax.kernels.gpu.blocks import CallShape


class QueryRows(NamedTuple):
    """The rows of a block.

    Attributes:
        kv_head: scalar, whose keys they meet.
        head: ``[M]`` int32 query heads.
        token: ``[M]`` int32, counted from the tile's first.
        mine: ``[M]`` bool; the others hold no query.
        feature: ``[1, F]`` int32.
        stored: ``[M, F]`` bool: what is in memory, of queries and of results.
    """

    kv_head: jax.Array
    head: jax.Array
    token: jax.Array
    mine: jax.Array
    feature: jax.Array
    stored: jax.Array

    @classmethod
    def of(cls, shape: CallShape, program: jax.Array, size: jax.Array | None = None) -> QueryRows:
        """Rows of the block ``program`` of ``shape.programs``, for a tile of ``size`` tokens; None is one."""
        row = jnp.arange(shape.blocks.rows, dtype=jnp.int32)
        heads = shape.blocks.heads
        if size is None:  # rows that hold no query get heads of their own: no two store to one place
            token, in_group, mine = jnp.zeros_like(row), row, row < heads
        else:
            token, in_group = row // heads, row % heads
            mine = token < size
        in_group = program % shape.head_blocks * heads + in_group
        mine &= in_group < shape.group
        kv_head = program // shape.head_blocks
        feature = jnp.arange(shape.features, dtype=jnp.int32)[None, :]
        stored = mine[:, None] & (feature < shape.head_dim)
        return cls(
            kv_head,
            kv_head * shape.group + in_group,
            token,
            mine,
            feature,
            jnp.broadcast_to(stored, (shape.blocks.rows, shape.features)),
        )

    def queries(self, q_ref: Any, first_token: jax.Array) -> jax.Array:
        """``[M, F]`` of ``q_ref [T, H, D]``, zeros where there are none."""
        token = (first_token + self.token)[:, None]
        return plgpu.load(q_ref.at[token, self.head[:, None], self.feature], mask=self.stored, other=0.0)

    def of_heads(self, values_ref: Any) -> jax.Array:
        """``[M]``: each row's own of ``values_ref [H]``."""
        return plgpu.load(values_ref.at[self.head], mask=self.mine, other=0.0)
