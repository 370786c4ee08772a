"""Paged attention as a specification: every array is dense, every line is one idea.

What the fast implementations compute is what this file computes. It gathers the whole page table's width
for every sequence and a score for every (token, key) pair, so it is for tests and for reading.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from vllm_jax.kernels.metadata import AttentionMetadata
from vllm_jax.kernels.pages import check_pages, decode, encode


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
    num_tokens, num_heads, head_dim = q.shape
    num_pages, _, num_kv_heads, page_size, _ = kv_pages.shape
    num_seqs, pages_per_seq = metadata.page_table.shape

    seq = metadata.sequence_of_token(num_tokens)  # [T], num_seqs for padding
    position = metadata.positions(num_tokens)  # [T]
    is_real = seq < num_seqs
    row = jnp.minimum(seq, num_seqs - 1)

    # Write. A page number behind the last page makes the scatter drop the token.
    page = jnp.where(is_real, metadata.page_table[row, position // page_size], num_pages)
    offset = position % page_size
    kv_pages = kv_pages.at[page, 0, :, offset].set(encode(k, kv_pages, k_scale), mode="drop")
    kv_pages = kv_pages.at[page, 1, :, offset].set(encode(v, kv_pages, v_scale), mode="drop")

    # Gather each sequence's pages: [S, P, 2, KH, page, D] -> two of [S, KH, C, D], C = P * page.
    context = decode(kv_pages.at[metadata.page_table].get(mode="clip"))
    context = context.transpose(2, 0, 3, 1, 4, 5)
    keys, values = context.reshape(2, num_seqs, num_kv_heads, pages_per_seq * page_size, head_dim)
    keys *= 1.0 if k_scale is None else k_scale
    values *= 1.0 if v_scale is None else v_scale

    # Visibility of key c to token t: [T, C].
    key_position = jnp.arange(pages_per_seq * page_size, dtype=jnp.int32)
    distance = key_position[None, :] - position[:, None]
    visible = is_real[:, None] & (distance <= 0)
    if sliding_window is not None:
        visible &= distance > -sliding_window

    # Scores: [T, KH, G, C], G query heads to a KV head.
    queries = q.astype(jnp.float32).reshape(num_tokens, num_kv_heads, -1, head_dim)
    scores = scale * jnp.einsum("tkgd,tkcd->tkgc", queries, keys[row], precision="highest")
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    if alibi_slopes is not None:
        slopes = alibi_slopes.astype(jnp.float32).reshape(num_kv_heads, -1)
        scores += slopes[None, :, :, None] * distance[:, None, None, :].astype(jnp.float32)
    scores = jnp.where(visible[:, None, None, :], scores, -jnp.inf)

    # Softmax. A row that sees nothing has the maximum -inf and the sum 0: both are replaced, it gives zeros.
    # A sink is one more score in the maximum and in the sum, with no value behind it.
    peak = jnp.max(scores, axis=-1, keepdims=True)
    if sinks is not None:
        sink = sinks.astype(jnp.float32).reshape(num_kv_heads, -1)[None, :, :, None]
        peak = jnp.maximum(peak, sink)
    peak = jnp.where(jnp.isfinite(peak), peak, 0.0)
    weights = jnp.exp(scores - peak)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    if sinks is not None:
        total += jnp.exp(sink - peak)
    weights = weights / jnp.maximum(total, jnp.finfo(jnp.float32).tiny)

    # What lies in the pages behind a sequence's end may be NaN, and 0 * NaN is NaN: masked here as well.
    seen_values = jnp.where(visible[:, None, :, None], values[row], 0.0)
    out = jnp.einsum("tkgc,tkcd->tkgd", weights, seen_values, precision="highest")
    return out.reshape(num_tokens, num_heads, head_dim).astype(q.dtype), kv_pages
