"""Pages on a GPU: their layout, how a step's keys get in, and how a kernel reads them.

    one layer:  [num_pages, 2, KH, page, D]     keys at index 0 of axis 1, values at index 1
    the same:   [num_pages * 2 * KH * page, D]  the flat view that is written and read: a bitcast

A page's keys of one head are neighbours in memory: a block of them is one stretch, and 16 bytes are loaded at
a time. bfloat16 is stored as itself (a GPU scatters it natively), quantised values as int8 or float8_e4m3fn
with one scale an array.

Scattering rows into the flat view keeps the scattered axis in front. In any other form XLA transposes the
operand for the scatter and back, which would copy the cache twice a layer.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plgpu

from vllm_jax.errors import ConfigError
from vllm_jax.kernels.gpu.blocks import CallShape
from vllm_jax.kernels.metadata import AttentionMetadata
from vllm_jax.kernels.pages import KV_DTYPES, quantize


def pages_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype in which keys and values of ``dtype`` are stored: itself. Raises ConfigError."""
    dtype = jnp.dtype(dtype)
    if dtype not in KV_DTYPES:
        raise ConfigError(
            f"keys and values cannot be stored as {dtype}; one of {', '.join(map(str, KV_DTYPES))}"
        )
    return dtype


def flat_rows(kv_pages: jax.Array) -> jax.Array:
    """``[num_pages, 2, KH, page, D]`` -> ``[rows, D]``."""
    return kv_pages.reshape(-1, kv_pages.shape[-1])


def write_pages(
    kv_pages: jax.Array,
    k: jax.Array,  # [T, KH, D]
    v: jax.Array,  # [T, KH, D]
    metadata: AttentionMetadata,
    k_scale: float | None,
    v_scale: float | None,
) -> jax.Array:
    """Scatters the step's keys and values to their places; padding tokens are dropped."""
    num_pages, _, num_kv_heads, page_size, head_dim = kv_pages.shape
    num_tokens = k.shape[0]
    seq = metadata.sequence_of_token(num_tokens)  # [T], S for padding
    position = metadata.positions(num_tokens)
    table_row = jnp.minimum(seq, metadata.kv_lens.shape[0] - 1)
    page = metadata.page_table.at[table_row, position // page_size].get(mode="clip")
    # Row of (page, 0, head 0, position); then one of every head, of keys and of values.
    first = page * (2 * num_kv_heads * page_size) + position % page_size
    heads = jnp.arange(2 * num_kv_heads, dtype=jnp.int32) * page_size
    rows = first[:, None] + heads  # [T, 2 * KH]
    # A place behind the last row drops the token; every one its own, since places are promised to be unique.
    num_rows = num_pages * 2 * num_kv_heads * page_size
    unused = num_rows + jnp.arange(rows.size, dtype=jnp.int32).reshape(rows.shape)
    rows = jnp.where((seq < metadata.kv_lens.shape[0])[:, None], rows, unused)
    k, v = quantize(k, kv_pages.dtype, k_scale), quantize(v, kv_pages.dtype, v_scale)
    new = jnp.concatenate([k, v], axis=1).reshape(-1, head_dim)
    written = flat_rows(kv_pages).at[rows.reshape(-1)].set(new, mode="drop", unique_indices=True)
    return written.reshape(kv_pages.shape)


def read_block(
    rows_ref: Any,  # [rows, D] in memory: the flat view
    table_ref: Any,  # [S, P] int32 in memory
    seq: jax.Array,
    first_key: jax.Array,  # a multiple of the block's length
    wanted: jax.Array | None,  # [C] bool: keys to load; None: all
    *,
    kv_head: jax.Array,
    shape: CallShape,
    dtype: jnp.dtype,
) -> tuple[jax.Array, jax.Array]:
    """Keys and values of C positions from ``first_key`` on, ``[C, F]`` each, in ``dtype``.

    What is not wanted, and features beyond D, are not read: they are 0.
    """
    num_keys, page_size, num_kv_heads = shape.blocks.keys, shape.page_size, shape.num_kv_heads
    key = first_key + jnp.arange(num_keys, dtype=jnp.int32)
    # Positions are not negative: lax's division has no signs to look at, unlike Python's.
    offset = jax.lax.rem(key, jnp.int32(page_size))
    if page_size % num_keys == 0:  # the block lies in one page
        page = table_ref[seq, jax.lax.div(first_key, jnp.int32(page_size))]
    else:
        slot = jax.lax.div(key, jnp.int32(page_size))
        page = plgpu.load(table_ref.at[seq, slot], mask=wanted, other=None if wanted is None else 0)
    key_rows = (page * (2 * num_kv_heads) + kv_head) * page_size + offset  # [C]
    value_rows = key_rows + num_kv_heads * page_size
    feature = jnp.arange(shape.features, dtype=jnp.int32)[None, :]
    mask = None if wanted is None else wanted[:, None]
    if shape.features != shape.head_dim:
        real = feature < shape.head_dim
        mask = real if mask is None else mask & real
    if mask is not None:
        mask = jnp.broadcast_to(mask, (num_keys, shape.features))
    other = None if mask is None else jnp.zeros((), rows_ref.dtype)

    def load(rows: jax.Array) -> jax.Array:
        return plgpu.load(rows_ref.at[rows[:, None], feature], mask=mask, other=other).astype(dtype)

    return load(key_rows), load(value_rows)
