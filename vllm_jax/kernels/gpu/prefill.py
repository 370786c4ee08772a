"""Prefill: rows of more than one query token, cut into tiles of neighbouring tokens.

    grid  (KV head, tile)
    tile  M rows of one product: tokens of one sequence x query heads of one KV head

              keys      0 ........... window ............ position
              blocks    |  not read  | edge | full ...... | edge |
                                      masked  no masks      masked

Each tile walks over the key blocks that any of its rows sees. Blocks that all its rows see entirely need no
masks: a long context costs two products a block and the exponential. Tiles are taken from the last to the
first, because the late tiles of a prompt have the longest way.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from vllm_jax.kernels.cost import AttentionCost
from vllm_jax.kernels.gpu import blocks as sizes
from vllm_jax.kernels.gpu.blocks import CallShape
from vllm_jax.kernels.gpu.cache import flat_rows, read_block
from vllm_jax.kernels.gpu.rows import QueryRows
from vllm_jax.kernels.gpu.scores import RunningSoftmax, Scoring, attend_block, finish
from vllm_jax.kernels.metadata import AttentionMetadata
from vllm_jax.kernels.tiles import prefill_tiles


def attend_prefill_rows(
    out: jax.Array,  # [T, H, D]; the rows' tokens are overwritten
    q: jax.Array,  # [T, H, D]
    kv_pages: jax.Array,  # [N, 2, KH, page, D]
    metadata: AttentionMetadata,
    slopes: jax.Array,  # [H] float32
    sinks: jax.Array,  # [H] float32
    scoring: Scoring,
    *,
    interpret: bool,
) -> jax.Array:
    """Attends for rows of more than one query token -> ``out`` with their tokens filled in."""
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads, page_size = kv_pages.shape[2:4]
    group = num_heads // num_kv_heads
    blocks = sizes.prefill_blocks(
        group, sizes.power_of_two(head_dim), num_tokens, exact=q.dtype == jnp.float32
    )
    shape = CallShape(blocks, num_kv_heads, group, head_dim, page_size)
    cost = AttentionCost.of(q, kv_pages, metadata.page_table, page_size, scoring.window)
    tiles = prefill_tiles(metadata, num_tokens, blocks.tokens)
    return pl.pallas_call(
        partial(_attend_tile, shape=shape, scoring=scoring),
        grid=(shape.programs, tiles.seq.shape[0]),
        out_shape=jax.ShapeDtypeStruct(out.shape, out.dtype),
        input_output_aliases={9: 0},
        compiler_params=plgpu.CompilerParams(num_warps=blocks.num_warps, num_stages=blocks.num_stages),
        interpret=interpret,
        cost_estimate=cost.prefill(num_tokens, metadata.kv_lens.shape[0]),
        name="paged_prefill",
    )(q, flat_rows(kv_pages), metadata.page_table, *tiles, slopes, sinks, out)


def _attend_tile(
    q_ref: Any,  # [T, H, D]
    rows_ref: Any,  # [rows, D] flat pages
    table_ref: Any,  # [S, P]
    seq_ref: Any,  # [n]
    first_token_ref: Any,  # [n]
    first_position_ref: Any,  # [n]
    size_ref: Any,  # [n]
    slopes_ref: Any,  # [H]
    sinks_ref: Any,  # [H]
    _: Any,  # [T, H, D] the same memory as out_ref
    out_ref: Any,  # [T, H, D]
    *,
    shape: CallShape,
    scoring: Scoring,
) -> None:
    """One tile of one sequence, for the query heads of one KV head."""
    tile = pl.num_programs(1) - 1 - pl.program_id(1)
    seq, size, first_position = seq_ref[tile], size_ref[tile], first_position_ref[tile]
    first_token = first_token_ref[tile]
    rows = QueryRows.of(shape, pl.program_id(0), size)
    q, slopes = rows.queries(q_ref, first_token), rows.of_heads(slopes_ref)
    position = first_position + rows.token
    num_keys = shape.blocks.keys

    begin, end = jnp.int32(0), jnp.where(size > 0, first_position + size, 0)
    full_begin = jnp.int32(0)
    if scoring.window is not None:
        begin = jnp.maximum(first_position - scoring.window + 1, 0)
        full_begin = jnp.maximum(end - scoring.window, 0)

    def step(index: jax.Array, state: RunningSoftmax, *, masked: bool) -> RunningSoftmax:
        start = index * num_keys
        key = start + jnp.arange(num_keys, dtype=jnp.int32)
        distance = key[None, :] - position[:, None]
        wanted = visible = None
        if masked:
            wanted, visible = key < end, distance <= 0
            if scoring.window is not None:
                wanted &= key >= begin
                visible &= distance > -scoring.window
        k, v = read_block(
            rows_ref, table_ref, seq, start, wanted, kv_head=rows.kv_head, shape=shape, dtype=q.dtype
        )
        return attend_block(state, q, k, v, distance, visible, slopes, scoring)

    # Blocks [first, full_first) and [full_last, last) are seen in part, those between by every row.
    first, last = begin // num_keys, (end + num_keys - 1) // num_keys
    full_first = jnp.clip((full_begin + num_keys - 1) // num_keys, first, last)
    full_last = jnp.clip((first_position + 1) // num_keys, full_first, last)
    state = RunningSoftmax.empty(shape.blocks.rows, shape.features)
    if scoring.window is not None:
        state = jax.lax.fori_loop(first, full_first, partial(step, masked=True), state)
    state = jax.lax.fori_loop(full_first, full_last, partial(step, masked=False), state)
    state = jax.lax.fori_loop(full_last, last, partial(step, masked=True), state)

    result = finish(state, rows.of_heads(sinks_ref), scoring).astype(out_ref.dtype)
    token = (first_token + rows.token)[:, None]
    plgpu.store(out_ref.at[token, rows.head[:, None], rows.feature], result, mask=rows.stored)
