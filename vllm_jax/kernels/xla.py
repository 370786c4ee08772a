"""Paged attention in plain XLA operations: the CPU's path, and a portable one.

Knows how tiles of queries (``kernels/tiles.py``) become even pieces of work. Does not know the device, nor
how pages store numbers (``kernels/pages.py``).

Queries are cut into tiles, neighbouring tokens of one sequence: tiles of one for the rows that decode, larger
ones for those that prefill. Tiles are taken in groups, and a group walks over its contexts in chunks of a few
pages with the online softmax of Milakov and Gimelshein (2018):

    for each group of tiles                     number of groups: what the batch holds, at run time
        for each chunk of pages                 from the first that a row of the group sees to the last
            gather -> scores -> running (max, sum, weighted values)

Both trip counts are dynamic: nothing is gathered for padding or behind the longest context of the group, and
no program depends on how long the contexts are.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from vllm_jax.kernels.metadata import AttentionMetadata
from vllm_jax.kernels.pages import check_pages, decode, encode
from vllm_jax.kernels.tiles import Tiles, decode_tiles, prefill_tiles

TILE = 32
"""Query tokens of one tile where a row has more than one."""
CHUNK_TOKENS = 128
"""Keys a tile sees in one turn of the inner loop."""
WORK_ELEMENTS = 1 << 19
"""Numbers that are gathered (or scores computed) in one turn: 2 MiB of float32 stay in a core's cache."""

_MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)


def paged_attention(
    q: jax.Array,  # [T, H, D]
    k: jax.Array,  # [T, KH, D]
    v: jax.Array,  # [T, KH, D]
    kv_pages: jax.Array,  # [N, 2, KH, page, D]
    metadata: AttentionMetadata,
    *,
    scale: float,
    alibi_slopes: jax.Array | None = None,  # [H] float32
    sliding_window: int | None = None,
    soft_cap: float | None = None,
    sinks: jax.Array | None = None,  # [H] float32
    k_scale: float | None = None,
    v_scale: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Writes the step's keys and values into the pages, then attends; see ``kernels/attention.py``."""
    check_pages(kv_pages, k)
    kv_pages = write_pages(kv_pages, k, v, metadata, k_scale=k_scale, v_scale=v_scale)
    out = attend(
        q,
        kv_pages,
        metadata,
        scale=scale if k_scale is None else scale * k_scale,
        alibi_slopes=alibi_slopes,
        sliding_window=sliding_window,
        soft_cap=soft_cap,
        sinks=sinks,
    )
    if v_scale is not None:
        out = out * v_scale
    return out.astype(q.dtype), kv_pages


def write_pages(
    kv_pages: jax.Array,
    k: jax.Array,
    v: jax.Array,
    metadata: AttentionMetadata,
    *,
    k_scale: float | None = None,
    v_scale: float | None = None,
) -> jax.Array:
    """Scatters ``k``, ``v [T, KH, D]`` to the tokens' places; padding tokens are dropped."""
    num_tokens = k.shape[0]
    num_pages, _, _, page_size, _ = kv_pages.shape
    num_seqs = metadata.kv_lens.shape[0]
    seq = metadata.sequence_of_token(num_tokens)
    position = metadata.positions(num_tokens)
    page = metadata.page_table[jnp.minimum(seq, num_seqs - 1), position // page_size]
    page = jnp.where(seq < num_seqs, page, num_pages)
    new = jnp.stack([encode(k, kv_pages, k_scale), encode(v, kv_pages, v_scale)], axis=1)  # [T, 2, KH, D]
    return kv_pages.at[page, :, :, position % page_size].set(new, mode="drop")


def attend(
    q: jax.Array,  # [T, H, D]
    kv_pages: jax.Array,  # [N, 2, KH, page, D]
    metadata: AttentionMetadata,
    *,
    scale: float,
    alibi_slopes: jax.Array | None,
    sliding_window: int | None,
    soft_cap: float | None,
    sinks: jax.Array | None,
) -> jax.Array:
    """Attends over pages that hold the step's own keys already -> ``[T, H, D]`` float32."""
    num_tokens = q.shape[0]
    run = partial(
        _attend_tiles,
        q.astype(jnp.float32) * scale,
        kv_pages=kv_pages,
        page_table=metadata.page_table,
        alibi_slopes=alibi_slopes,
        sliding_window=sliding_window,
        soft_cap=soft_cap,
        sinks=sinks,
    )
    out = run(jnp.zeros(q.shape, jnp.float32), decode_tiles(metadata), 1)
    if not metadata.decode_only and num_tokens > 1:
        out = run(out, prefill_tiles(metadata, num_tokens, TILE), TILE)
    return out


def _attend_tiles(
    q: jax.Array,  # [T, H, D] float32, scaled
    out: jax.Array,  # [T, H, D] float32; the tiles' tokens are overwritten
    tiles: Tiles,
    tile: int,
    *,
    kv_pages: jax.Array,
    page_table: jax.Array,
    alibi_slopes: jax.Array | None,
    sliding_window: int | None,
    soft_cap: float | None,
    sinks: jax.Array | None,
) -> jax.Array:
    num_tokens, num_heads, head_dim = q.shape
    _, _, num_kv_heads, page_size, _ = kv_pages.shape
    heads = (num_kv_heads, num_heads // num_kv_heads)  # [K, G]
    num_pages, group = _work_size(kv_pages.shape, page_table.shape[1], tiles.seq.shape[0], num_heads * tile)
    chunk = num_pages * page_size
    tiles = tiles.padded(group)
    num_used = jnp.max(jnp.where(tiles.size > 0, jnp.arange(1, tiles.size.shape[0] + 1), 0))
    if alibi_slopes is not None:
        slopes = alibi_slopes.astype(jnp.float32).reshape(1, *heads, 1, 1)

    def attend_group(index: jax.Array, out: jax.Array) -> jax.Array:
        mine = Tiles(*(jax.lax.dynamic_slice_in_dim(field, index * group, group) for field in tiles))
        row = jnp.arange(tile, dtype=jnp.int32)
        token = jnp.where(row < mine.size[:, None], mine.first_token[:, None] + row, num_tokens)  # [g, B]
        position = mine.first_position[:, None] + row
        begin = jnp.zeros_like(mine.end)
        if sliding_window is not None:
            begin = jnp.maximum(mine.first_position - sliding_window + 1, 0)
        queries = q.at[token].get(mode="clip").reshape(group, tile, *heads, head_dim)
        queries = queries.transpose(0, 2, 3, 1, 4)  # [g, K, G, B, D]

        def attend_chunk(step: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            peak, total, acc = state  # [g, K, G, B] twice, [g, K, G, B, D]
            page = step * num_pages + jnp.arange(num_pages, dtype=jnp.int32)
            page = page_table.at[mine.seq[:, None], page].get(mode="clip")  # [g, p]
            kv = decode(kv_pages.at[page].get(mode="clip"))  # [g, p, 2, K, page, D]
            kv = kv.transpose(2, 0, 3, 1, 4, 5).reshape(2, group, num_kv_heads, chunk, head_dim)
            key_position = step * chunk + jnp.arange(chunk, dtype=jnp.int32)
            distance = (key_position - position[:, :, None])[:, None, None]  # [g, 1, 1, B, C]
            visible = distance <= 0
            if sliding_window is not None:
                visible &= distance > -sliding_window
            scores = _per_kv_head(queries, kv[0], "gkrd,gkcd->gkrc")
            if soft_cap is not None:
                scores = soft_cap * jnp.tanh(scores / soft_cap)
            if alibi_slopes is not None:
                scores += slopes * distance.astype(jnp.float32)
            new_peak = jnp.maximum(peak, jnp.max(jnp.where(visible, scores, _MASKED), axis=-1))
            weights = jnp.where(visible, jnp.exp(scores - new_peak[..., None]), 0.0)
            fade = jnp.exp(peak - new_peak)
            # What no row of the tile sees may be NaN (unused page, left window), and 0 * NaN is NaN.
            real = (key_position >= begin[:, None]) & (key_position < mine.end[:, None])  # [g, C]
            values = jnp.where(real[:, None, :, None], kv[1], 0.0)
            acc = acc * fade[..., None] + _per_kv_head(weights, values, "gkrc,gkcd->gkrd")
            return new_peak, total * fade + jnp.sum(weights, axis=-1), acc

        peak = jnp.full((group, *heads, tile), _MASKED, jnp.float32)
        if sinks is not None:  # one more score, its weight in the sum already, without a value
            peak = jnp.broadcast_to(sinks.astype(jnp.float32).reshape(1, *heads, 1), peak.shape)
        state = (
            peak,
            jnp.zeros_like(peak) if sinks is None else jnp.ones_like(peak),
            jnp.zeros((group, *heads, tile, head_dim), jnp.float32),
        )
        is_used = mine.size > 0
        first = jnp.min(jnp.where(is_used, begin // chunk, jnp.iinfo(jnp.int32).max))
        last = jnp.max((mine.end + chunk - 1) // chunk)
        _, total, acc = jax.lax.fori_loop(first, last, attend_chunk, state)
        result = acc / jnp.where(total == 0.0, 1.0, total)[..., None]
        result = result.transpose(0, 3, 1, 2, 4).reshape(group, tile, num_heads, head_dim)
        return out.at[token].set(result, mode="drop")

    return jax.lax.fori_loop(0, (num_used + group - 1) // group, attend_group, out)


def _per_kv_head(x: jax.Array, shared: jax.Array, equation: str) -> jax.Array:
    """Batched product of ``x [g, K, G, B, .]`` with what the heads of a group share, ``[g, K, ., .]``."""
    g, k, heads, tile, width = x.shape
    y = jnp.einsum(equation, x.reshape(g, k, heads * tile, width), shared)
    return y.reshape(g, k, heads, tile, -1)


def _work_size(
    kv_shape: tuple[int, ...], pages_per_seq: int, num_tiles: int, rows_per_tile: int
) -> tuple[int, int]:
    """``(pages a chunk, tiles a group)``, static, so that what one turn touches stays in the cache."""
    _, _, num_kv_heads, page_size, head_dim = kv_shape
    pages = max(1, min(pages_per_seq, CHUNK_TOKENS // page_size))
    gathered = 2 * num_kv_heads * pages * page_size * head_dim
    scores = rows_per_tile * pages * page_size
    return pages, max(1, min(num_tiles, WORK_ELEMENTS // max(gathered, scores)))
