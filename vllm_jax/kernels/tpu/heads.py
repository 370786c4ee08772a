"""Lays out queries and results in the kernel, where heads are whole tiles of lanes (``layout.is_flat``).

    prefill    a block's tokens as the model has them        a unit: its G heads below each other
               [B, H * D]                              ->    [G * B, D]
    decode     a token's heads                               a unit: block-diagonal over its hb KV heads
               [H, D]                                  ->    [hb * G, hb * D]

Results go the way back.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from vllm_jax.kernels.tpu.call import MASKED, AttentionCall, Refs
from vllm_jax.kernels.tpu.layout import LANES


def result_factor(call: AttentionCall, refs: Refs, unit: Any) -> jax.Array:
    """``[M, 128]`` float32: what a unit's sums are multiplied by in the end."""
    unseeing = refs.peak[unit] == MASKED  # rows of no pair
    return jnp.where(unseeing, 0.0, call.value_scale / jnp.where(unseeing, 1.0, refs.total[unit]))


def _own_lanes(call: AttentionCall, head: int) -> jax.Array:
    """``[M, D]`` bool: the rows of a unit whose KV head is ``head``."""
    shape = (call.units.rows_per_token, call.units.head_dim)
    return jax.lax.div(jax.lax.broadcasted_iota(jnp.int32, shape, 0), jnp.int32(call.units.group)) == head


def _head_lanes(call: AttentionCall, head: int) -> slice:
    """The lanes of a unit's KV head in its window."""
    return slice(head * call.units.head_dim, (head + 1) * call.units.head_dim)


def spread_heads(call: AttentionCall, refs: Refs) -> None:
    """Lays a token's query heads ``[H, D]`` block-diagonally over the lanes of their units."""
    rows = call.units.rows_per_token
    for unit in range(call.units.num_units):
        queries = refs.flat_q[unit * rows : (unit + 1) * rows, :].astype(jnp.float32)
        for head in range(call.units.heads):
            own = jnp.where(_own_lanes(call, head), queries, 0.0).astype(refs.q.dtype)
            refs.q[unit, :, _head_lanes(call, head)] = own


def gather_heads(call: AttentionCall, refs: Refs) -> None:
    """The diagonal of the units' results, as the token's heads ``[H, D]``."""
    rows, head_dim = call.units.rows_per_token, call.units.head_dim
    for unit in range(call.units.num_units):
        total = jnp.zeros((rows, head_dim), jnp.float32)
        for head in range(call.units.heads):
            total = jnp.where(_own_lanes(call, head), refs.acc[unit, :, _head_lanes(call, head)], total)
        factor = jnp.concatenate([result_factor(call, refs, unit)] * (head_dim // LANES), axis=1)
        refs.out[unit * rows : (unit + 1) * rows, :] = (total * factor).astype(refs.out.dtype)


def stack_queries(call: AttentionCall, refs: Refs, unit: jax.Array) -> None:
    """Lays a unit's query heads, which lie beside each other in ``flat_q``, below each other in ``q``."""
    block, head_dim = call.sizes.q_tokens, call.units.head_dim
    for head in range(call.units.group):
        lanes = pl.ds(pl.multiple_of((unit * call.units.group + head) * head_dim, LANES), head_dim)
        refs.q[unit, head * block : (head + 1) * block, :] = refs.flat_q[:, lanes]


def spread_result(call: AttentionCall, refs: Refs, unit: jax.Array, tile: int, result: jax.Array) -> None:
    """Lays one tile of a unit's results ``[M, 128]`` beside each other, a head's tokens as they came."""
    block, head_dim = call.sizes.q_tokens, call.units.head_dim
    for head in range(call.units.group):
        first = (unit * call.units.group + head) * head_dim + tile * LANES
        lanes = pl.ds(pl.multiple_of(first, LANES), LANES)
        refs.out[:, lanes] = result[head * block : (head + 1) * block]
