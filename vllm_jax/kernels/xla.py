"""Paged attention in plain XLA operations: the CPU's path, and a portable one.

Knows how a ragged batch is cut into even pieces of work. Does not know the device, nor how pages store
numbers (``kernels/pages.py``).

Queries are cut into tiles of neighbouring tokens of one sequence, tiles are taken in groups, and a group
walks over its contexts in chunks of a few pages with the online softmax of Milakov and Gimelshein (2018):

    for each group of tiles                     number of groups: what the batch holds, at run time
        for each chunk of pages                 from the first that a row of the group sees to the last
            gather -> scores -> running (max, sum, weighted values)

Both trip counts are dynamic: nothing is gathered for padding or behind the longest context of the group, and
no program depends on how long the contexts are.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vllm_jax.kernels.metadata import AttentionMetadata
from vllm_jax.kernels.pages import decode, encode

TILE = 16
"""Query tokens of one tile in a batch with prefill."""
CHUNK_ELEMENTS = 1 << 19
"""Numbers gathered from the pages at once (2 MiB as float32: what stays in a core's cache)."""

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
) -> tuple[jax.Array, jax.Array]:
    """Writes the step's keys and values into the pages, then attends; see ``kernels/attention.py``."""
    kv_pages = write_pages(kv_pages, k, v, metadata)
    return attend(q, kv_pages, metadata, scale, alibi_slopes, sliding_window, soft_cap), kv_pages


def write_pages(kv_pages: jax.Array, k: jax.Array, v: jax.Array, metadata: AttentionMetadata) -> jax.Array:
    """Scatters ``k``, ``v [T, KH, D]`` to the tokens' places; padding tokens are dropped."""
    num_tokens = k.shape[0]
    num_pages, _, _, page_size, _ = kv_pages.shape
    num_seqs = metadata.kv_lens.shape[0]
    seq = metadata.sequence_of_token(num_tokens)
    position = metadata.positions(num_tokens)
    page = metadata.page_table[jnp.minimum(seq, num_seqs - 1), position // page_size]
    page = jnp.where(seq < num_seqs, page, num_pages)
    new = encode(jnp.stack([k, v], axis=1), kv_pages)  # [T, 2, KH, D]
    return kv_pages.at[page, :, :, position % page_size].set(new, mode="drop")


class _Tiles(NamedTuple):
    """Tiles of up to B query tokens; all ``[n]`` int32. Tiles without tokens have ``size`` 0."""

    seq: jax.Array
    first_token: jax.Array
    first_position: jax.Array
    size: jax.Array

    @property
    def end(self) -> jax.Array:
        """One past the last key that the tile sees."""
        return jnp.where(self.size > 0, self.first_position + self.size, 0)


def _cut_tiles(
    metadata: AttentionMetadata, num_tokens: int, tile: int, group: int
) -> tuple[_Tiles, jax.Array]:
    """All tiles, padded to a multiple of ``group``, and how many to visit (those behind are empty)."""
    q_lens = metadata.q_lens
    num_seqs = q_lens.shape[0]
    if metadata.decode_only:
        num_tiles = -(-num_seqs // group) * group
        index = jnp.arange(num_tiles, dtype=jnp.int32)
        seq = jnp.minimum(index, num_seqs - 1)
        count = jnp.where(index < num_seqs, q_lens[seq], 0)
        used = jnp.max(jnp.where(count > 0, index + 1, 0))
        return _Tiles(seq, seq, metadata.kv_lens[seq] - 1, count), used
    num_tiles = -(-(-(-num_tokens // tile) + num_seqs) // group) * group
    tiles_end = jnp.cumsum((q_lens + tile - 1) // tile, dtype=jnp.int32)  # [S]
    index = jnp.arange(num_tiles, dtype=jnp.int32)
    seq = jnp.searchsorted(tiles_end, index, side="right").astype(jnp.int32)
    seq = jnp.minimum(seq, num_seqs - 1)
    tiles_begin = tiles_end[seq] - (q_lens[seq] + tile - 1) // tile
    offset = (index - tiles_begin) * tile
    return _Tiles(
        seq=seq,
        first_token=metadata.cu_q_lens[seq] + offset,
        first_position=metadata.kv_lens[seq] - q_lens[seq] + offset,
        size=jnp.clip(q_lens[seq] - offset, 0, tile),
    ), tiles_end[-1]


def attend(
    q: jax.Array,
    kv_pages: jax.Array,
    metadata: AttentionMetadata,
    scale: float,
    alibi_slopes: jax.Array | None,
    sliding_window: int | None,
    soft_cap: float | None,
) -> jax.Array:
    """``q [T, H, D]`` over pages that hold the step's keys already -> ``[T, H, D]`` in the dtype of ``q``."""
    num_tokens, num_heads, head_dim = q.shape
    _, _, num_kv_heads, page_size, _ = kv_pages.shape
    group_heads = num_heads // num_kv_heads
    tile = 1 if metadata.decode_only else TILE
    pages_per_chunk, group = _chunking(kv_pages.shape, metadata, num_tokens, tile)
    chunk = pages_per_chunk * page_size
    tiles, num_used = _cut_tiles(metadata, num_tokens, tile, group)
    row = jnp.arange(tile, dtype=jnp.int32)
    if alibi_slopes is not None:
        slopes = alibi_slopes.astype(jnp.float32).reshape(num_kv_heads, group_heads, 1)

    def attend_group(index: jax.Array, out: jax.Array) -> jax.Array:
        mine = _Tiles(*(jax.lax.dynamic_slice_in_dim(x, index * group, group) for x in tiles))
        token = jnp.where(row < mine.size[:, None], mine.first_token[:, None] + row, num_tokens)  # [g, B]
        position = mine.first_position[:, None] + row
        queries = q.at[token].get(mode="clip").astype(jnp.float32) * scale  # [g, B, H, D]
        queries = queries.reshape(group, tile, num_kv_heads, group_heads, head_dim).transpose(0, 2, 3, 1, 4)
        queries = queries.reshape(group, num_kv_heads, group_heads * tile, head_dim)
        begin = jnp.zeros_like(mine.end)
        if sliding_window is not None:
            begin = jnp.maximum(mine.first_position - sliding_window + 1, 0)

        def attend_chunk(
            step: jax.Array, state: tuple[jax.Array, jax.Array, jax.Array]
        ) -> tuple[jax.Array, jax.Array, jax.Array]:
            peak, total, acc = state
            page = step * pages_per_chunk + jnp.arange(pages_per_chunk, dtype=jnp.int32)
            page = metadata.page_table.at[mine.seq[:, None], page].get(mode="clip")  # [g, p]
            kv = decode(kv_pages.at[page].get(mode="clip"))  # [g, p, 2, KH, page, D]
            kv = kv.transpose(2, 0, 3, 1, 4, 5).reshape(2, group, num_kv_heads, chunk, head_dim)
            key_position = step * chunk + jnp.arange(chunk, dtype=jnp.int32)
            distance = key_position - position[:, :, None]  # [g, B, C]
            visible = distance <= 0
            if sliding_window is not None:
                visible &= distance > -sliding_window
            scores = jnp.einsum("gkrd,gkcd->gkrc", queries, kv[0])
            scores = scores.reshape(group, num_kv_heads, group_heads, tile, chunk)
            if soft_cap is not None:
                scores = soft_cap * jnp.tanh(scores / soft_cap)
            if alibi_slopes is not None:
                scores += slopes[..., None] * distance.astype(jnp.float32)[:, None, None]
            visible = visible[:, None, None]
            new_peak = jnp.maximum(peak, jnp.max(jnp.where(visible, scores, _MASKED), axis=-1))
            weights = jnp.where(visible, jnp.exp(scores - new_peak[..., None]), 0.0)
            fade = jnp.exp(peak - new_peak)
            # Keys no row of the tile sees may be NaN (unused page, left window): 0 * NaN is NaN.
            real = (key_position >= begin[:, None]) & (key_position < mine.end[:, None])  # [g, C]
            values = jnp.where(real[:, None, :, None], kv[1], 0.0)
            weighted = jnp.einsum(
                "gkrc,gkcd->gkrd", weights.reshape(group, num_kv_heads, group_heads * tile, chunk), values
            )
            total = total * fade + jnp.sum(weights, axis=-1)
            return new_peak, total, acc * fade[..., None] + weighted.reshape(acc.shape)

        shape = (group, num_kv_heads, group_heads, tile)
        state = (
            jnp.full(shape, _MASKED, jnp.float32),
            jnp.zeros(shape, jnp.float32),
            jnp.zeros((*shape, head_dim), jnp.float32),
        )
        is_used = mine.size > 0
        first = jnp.min(jnp.where(is_used, begin // chunk, jnp.iinfo(jnp.int32).max))
        last = jnp.max((mine.end + chunk - 1) // chunk)
        _, total, acc = jax.lax.fori_loop(first, last, attend_chunk, state)
        result = acc / jnp.where(total == 0.0, 1.0, total)[..., None]
        result = result.transpose(0, 3, 1, 2, 4).reshape(group, tile, num_heads, head_dim).astype(q.dtype)
        return out.at[token].set(result, mode="drop")

    return jax.lax.fori_loop(0, (num_used + group - 1) // group, attend_group, jnp.zeros_like(q))


def _chunking(
    kv_shape: tuple[int, ...], metadata: AttentionMetadata, num_tokens: int, tile: int
) -> tuple[int, int]:
    """``(pages a chunk, tiles a group)``, static: as much as :data:`CHUNK_ELEMENTS` allows, groups first."""
    _, _, num_kv_heads, page_size, head_dim = kv_shape
    num_seqs, pages_per_seq = metadata.page_table.shape
    page_elements = 2 * num_kv_heads * page_size * head_dim
    num_tiles = num_seqs if metadata.decode_only else -(-num_tokens // tile) + num_seqs
    pages = max(1, min(pages_per_seq, 128 // page_size))
    group = max(1, min(num_tiles, 16, CHUNK_ELEMENTS // (page_elements * pages)))
    return pages, group
