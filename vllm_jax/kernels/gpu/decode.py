"""Decode: one query token a row, every context cut into parts that different blocks read.

    grid  (row, KV head, part)              [row 0, head 0]   part 0 | part 1 | part 2 | (part 3: idle)
                                            context           ======== ======== ===---
          each block                        pages -> scores -> (peak, total, acc) of its part
    then  (row, query head)                 combine: acc = sum_p 2^(peak_p - peak) acc_p, and divide

Reading the context is all the work there is, so that a single row must keep the whole card busy: 8 KV heads
are 8 blocks for 132 multiprocessors. How many parts there can be is static; how long a part is follows from
the batch at run time, so that a long row beside short ones is cut and the short ones are not.

The query heads of a KV head are the rows of one product: its keys are read once for all of them.
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
from vllm_jax.kernels.gpu.scores import MASKED, RunningSoftmax, Scoring, attend_block, finish

_COMBINE_WARPS = 4


def attend_decode_rows(
    out: jax.Array,  # [T, H, D]; the rows' tokens are overwritten
    q: jax.Array,  # [T, H, D]
    kv_pages: jax.Array,  # [N, 2, KH, page, D]
    page_table: jax.Array,  # [S, P]
    tokens: jax.Array,  # [S] int32 flat index of each row's query token, in range for every row
    kv_lens: jax.Array,  # [S] int32 context lengths; 0 for rows that are none of ours
    slopes: jax.Array,  # [H] float32
    sinks: jax.Array,  # [H] float32
    scoring: Scoring,
    *,
    interpret: bool,
) -> jax.Array:
    """Attends for rows of one query token -> ``out`` with their tokens filled in."""
    num_heads, head_dim = q.shape[1:]
    num_kv_heads, page_size = kv_pages.shape[2:4]
    num_rows, pages_per_seq = page_table.shape
    group = num_heads // num_kv_heads
    blocks = sizes.decode_blocks(group, sizes.power_of_two(head_dim), exact=q.dtype == jnp.float32)
    shape = CallShape(blocks, num_kv_heads, group, head_dim, page_size)
    cost = AttentionCost.of(q, kv_pages, page_table, page_size, scoring.window)
    splits = sizes.decode_splits(num_rows * shape.programs, pages_per_seq * page_size)
    chunk = chunk_length(kv_lens, scoring.window, splits, shape.programs, blocks.keys)

    partial_shapes = (
        jax.ShapeDtypeStruct((num_rows, num_heads, splits), jnp.float32),
        jax.ShapeDtypeStruct((num_rows, num_heads, splits), jnp.float32),
        jax.ShapeDtypeStruct((num_rows, num_heads, splits, head_dim), jnp.float32),
    )
    peak, total, acc = pl.pallas_call(
        partial(_attend_part, shape=shape, scoring=scoring),
        grid=(num_rows, shape.programs, splits),
        out_shape=partial_shapes,
        compiler_params=plgpu.CompilerParams(num_warps=blocks.num_warps, num_stages=blocks.num_stages),
        interpret=interpret,
        cost_estimate=cost.decode(num_rows),
        name="paged_decode",
    )(q, flat_rows(kv_pages), page_table, tokens, kv_lens, chunk, slopes)
    return pl.pallas_call(
        partial(_combine, scoring=scoring, splits=splits),
        grid=(num_rows, num_heads),
        out_shape=jax.ShapeDtypeStruct(out.shape, out.dtype),
        input_output_aliases={6: 0},
        compiler_params=plgpu.CompilerParams(num_warps=_COMBINE_WARPS, num_stages=1),
        interpret=interpret,
        name="paged_decode_combine",
    )(peak, total, acc, tokens, kv_lens, sinks, out)


def chunk_length(
    kv_lens: jax.Array, window: int | None, splits: int, programs: int, multiple: int
) -> jax.Array:
    """``[1]`` int32: keys of one part, the same for all rows, a multiple of ``multiple``.

    Long enough that no row needs more than ``splits`` parts, and otherwise short enough that the whole
    batch's keys make a block for every place on the card.
    """
    spans = kv_lens if window is None else jnp.minimum(kv_lens, window + multiple)
    places = sizes.MULTIPROCESSORS * sizes.BLOCKS_PER_MULTIPROCESSOR
    balanced = jnp.sum(spans.astype(jnp.float32)) * (programs / places)  # int32 would overflow
    length = jnp.maximum(balanced.astype(jnp.int32), sizes.MIN_CHUNK)
    length = jnp.maximum(length, jnp.max(spans + splits - 1) // splits)
    return ((length + multiple - 1) // multiple * multiple)[None].astype(jnp.int32)


def _attend_part(
    q_ref: Any,  # [T, H, D]
    rows_ref: Any,  # [rows, D] flat pages
    table_ref: Any,  # [S, P]
    tokens_ref: Any,  # [S]
    kv_lens_ref: Any,  # [S]
    chunk_ref: Any,  # [1]
    slopes_ref: Any,  # [H]
    peak_ref: Any,  # [S, H, splits]
    total_ref: Any,  # [S, H, splits]
    acc_ref: Any,  # [S, H, splits, D]
    *,
    shape: CallShape,
    scoring: Scoring,
) -> None:
    """One part of one row's context, for the query heads of one KV head."""
    row, program, part = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    rows = QueryRows.of(shape, program)
    q, slopes = rows.queries(q_ref, tokens_ref[row]), rows.of_heads(slopes_ref)
    num_keys = shape.blocks.keys

    kv_len = kv_lens_ref[row]
    begin = jnp.int32(0)
    if scoring.window is not None:
        begin = jnp.maximum(kv_len - scoring.window, 0)
    first = begin // num_keys * num_keys + part * chunk_ref[0]
    end = jnp.minimum(first + chunk_ref[0], kv_len)

    def step(index: jax.Array, state: RunningSoftmax) -> RunningSoftmax:
        start = first + index * num_keys
        key = start + jnp.arange(num_keys, dtype=jnp.int32)
        wanted = key < end
        if scoring.window is not None:
            wanted &= key >= begin
        k, v = read_block(
            rows_ref, table_ref, row, start, wanted, kv_head=rows.kv_head, shape=shape, dtype=q.dtype
        )
        distance = (key - (kv_len - 1))[None, :]
        return attend_block(state, q, k, v, distance, wanted[None, :], slopes, scoring)

    turns = jnp.maximum(end - first + num_keys - 1, 0) // num_keys
    state = jax.lax.fori_loop(0, turns, step, RunningSoftmax.empty(shape.blocks.rows, shape.features))
    plgpu.store(peak_ref.at[row, rows.head, part], state.peak, mask=rows.mine)
    plgpu.store(total_ref.at[row, rows.head, part], state.total, mask=rows.mine)
    # An idle part has no sums, and the combining kernel does not read them.
    plgpu.store(
        acc_ref.at[row, rows.head[:, None], part, rows.feature], state.acc, mask=rows.stored & (turns > 0)
    )


def _combine(
    peak_ref: Any,  # [S, H, splits]
    total_ref: Any,  # [S, H, splits]
    acc_ref: Any,  # [S, H, splits, D]
    tokens_ref: Any,  # [S]
    kv_lens_ref: Any,  # [S]
    sinks_ref: Any,  # [H]
    _: Any,  # [T, H, D] the same memory as out_ref
    out_ref: Any,  # [T, H, D]
    *,
    scoring: Scoring,
    splits: int,
) -> None:
    """Puts the parts of one row and one query head together."""
    row, head = pl.program_id(0), pl.program_id(1)
    head_dim = acc_ref.shape[3]
    part = jnp.arange(splits, dtype=jnp.int32)
    feature = jnp.arange(sizes.power_of_two(head_dim), dtype=jnp.int32)
    peaks = peak_ref[row, head, part]  # [P]
    used = peaks > 0.5 * MASKED
    peak = jnp.max(peaks, axis=0)
    weights = jnp.where(used, jnp.exp2(peaks - peak), 0.0)
    total = jnp.sum(weights * total_ref[row, head, part], axis=0)
    mask = used[:, None] & (feature < head_dim)[None, :]
    accs = plgpu.load(acc_ref.at[row, head, part[:, None], feature[None, :]], mask=mask, other=0.0)
    acc = jnp.sum(weights[:, None] * accs, axis=0)
    one_row = RunningSoftmax(peak[None], total[None], acc[None, :])
    result = finish(one_row, sinks_ref[head][None], scoring)[0]
    plgpu.store(
        out_ref.at[tokens_ref[row], head, feature],
        result.astype(out_ref.dtype),
        mask=(feature < head_dim) & (kv_lens_ref[row] > 0),
    )
