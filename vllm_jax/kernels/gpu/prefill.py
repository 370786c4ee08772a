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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from vllm_jax.kernels.gpu import blocks as sizes
from vllm_jax.kernels.gpu.blocks import KernelBlocks
from vllm_jax.kernels.gpu.cache import flat_rows, read_block
from vllm_jax.kernels.gpu.scores import RunningSoftmax, Scoring, attend_block, finish
from vllm_jax.kernels.metadata import AttentionMetadata


class Tiles(NamedTuple):
    """Tiles of query tokens, all ``[n]`` int32. A tile that is not used has ``size`` 0.

    Attributes:
        seq: row of the batch.
        first_token: flat index of the first token.
        first_position: its position in the sequence.
        size: tokens of the tile.
    """

    seq: jax.Array
    first_token: jax.Array
    first_position: jax.Array
    size: jax.Array


def prefill_tiles(metadata: AttentionMetadata, num_tokens: int, tile: int) -> Tiles:
    """Cuts every row of more than one query token into tiles of up to ``tile`` tokens."""
    num_seqs = metadata.kv_lens.shape[0]
    q_lens = jnp.where(metadata.q_lens > 1, metadata.q_lens, 0)
    counts = (q_lens + tile - 1) // tile  # [S]
    ends = jnp.cumsum(counts, dtype=jnp.int32)
    most = -(-num_tokens // tile) + min(num_seqs, num_tokens // 2)
    index = jnp.arange(most, dtype=jnp.int32)
    seq = jnp.sum(ends <= index[:, None], axis=1, dtype=jnp.int32)  # [n], S behind the last tile
    row = jnp.minimum(seq, num_seqs - 1)
    offset = (index - (ends - counts)[row]) * tile
    size = jnp.where(seq < num_seqs, jnp.clip(q_lens[row] - offset, 0, tile), 0)
    first_position = metadata.kv_lens[row] - q_lens[row] + offset
    return Tiles(row, metadata.cu_q_lens[row] + offset, first_position, size)


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
    features = sizes.power_of_two(head_dim)
    blocks = sizes.prefill_blocks(group, features, num_tokens, exact=q.dtype == jnp.float32)
    tiles = prefill_tiles(metadata, num_tokens, blocks.tokens)
    kernel = partial(
        _attend_tile,
        blocks=blocks,
        scoring=scoring,
        num_kv_heads=num_kv_heads,
        page_size=page_size,
        features=features,
    )
    return pl.pallas_call(
        kernel,
        grid=(num_kv_heads * -(-group // blocks.heads), tiles.seq.shape[0]),
        out_shape=jax.ShapeDtypeStruct(out.shape, out.dtype),
        input_output_aliases={9: 0},
        compiler_params=plgpu.CompilerParams(num_warps=blocks.num_warps, num_stages=blocks.num_stages),
        interpret=interpret,
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
    blocks: KernelBlocks,
    scoring: Scoring,
    num_kv_heads: int,
    page_size: int,
    features: int,
) -> None:
    """One tile of one sequence, for the query heads of one KV head."""
    program = pl.program_id(0)
    tile = pl.num_programs(1) - 1 - pl.program_id(1)
    num_heads, head_dim = q_ref.shape[1:]
    group = num_heads // num_kv_heads
    head_blocks = -(-group // blocks.heads)
    kv_head = program // head_blocks
    seq, size, first_position = seq_ref[tile], size_ref[tile], first_position_ref[tile]

    # Row r of the tile is the query of token r // heads and head r % heads.
    row = jnp.arange(blocks.rows, dtype=jnp.int32)
    in_group = program % head_blocks * blocks.heads + row % blocks.heads
    mine = (row // blocks.heads < size) & (in_group < group)  # [M]; size <= tokens of a block
    head = kv_head * group + in_group
    token = first_token_ref[tile] + row // blocks.heads
    position = first_position + row // blocks.heads

    feature = jnp.arange(features, dtype=jnp.int32)[None, :]
    stored = jnp.broadcast_to(mine[:, None] & (feature < head_dim), (blocks.rows, features))
    q = plgpu.load(q_ref.at[token[:, None], head[:, None], feature], mask=stored, other=0.0)
    slopes = plgpu.load(slopes_ref.at[head], mask=mine, other=0.0)

    begin, end = jnp.int32(0), jnp.where(size > 0, first_position + size, 0)
    full_begin = jnp.int32(0)
    if scoring.window is not None:
        begin = jnp.maximum(first_position - scoring.window + 1, 0)
        full_begin = jnp.maximum(end - scoring.window, 0)

    def step(index: jax.Array, state: RunningSoftmax, *, masked: bool) -> RunningSoftmax:
        start = index * blocks.keys
        key = start + jnp.arange(blocks.keys, dtype=jnp.int32)
        distance = key[None, :] - position[:, None]
        wanted = visible = None
        if masked:
            wanted, visible = key < end, distance <= 0
            if scoring.window is not None:
                wanted &= key >= begin
                visible &= distance > -scoring.window
        k, v = read_block(
            rows_ref,
            table_ref,
            seq,
            start,
            wanted,
            num_keys=blocks.keys,
            num_kv_heads=num_kv_heads,
            kv_head=kv_head,
            page_size=page_size,
            features=features,
            dtype=q.dtype,
        )
        return attend_block(state, q, k, v, distance, visible, slopes, scoring)

    # Blocks [first, full_first) and [full_last, last) are seen in part, those between by every row.
    first, last = begin // blocks.keys, (end + blocks.keys - 1) // blocks.keys
    full_first = jnp.clip((full_begin + blocks.keys - 1) // blocks.keys, first, last)
    full_last = jnp.clip((first_position + 1) // blocks.keys, full_first, last)
    state = RunningSoftmax.empty(blocks.rows, features)
    if scoring.window is not None:
        state = jax.lax.fori_loop(first, full_first, partial(step, masked=True), state)
    state = jax.lax.fori_loop(full_first, full_last, partial(step, masked=False), state)
    state = jax.lax.fori_loop(full_last, last, partial(step, masked=True), state)

    sinks = plgpu.load(sinks_ref.at[head], mask=mine, other=0.0)
    result = finish(state, sinks, scoring).astype(out_ref.dtype)
    plgpu.store(out_ref.at[token[:, None], head[:, None], feature], result, mask=stored)
