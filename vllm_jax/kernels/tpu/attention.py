"""Paged attention on TPU: splits a ragged batch into what decodes and what prefills; a kernel for each.

    decode only                        mixed
    paged_decode: writes + attends     write_pages: the chunks' keys and values into the pages
                                       paged_decode: the rows with one token, writes + attends
                                       paged_prefill: the rows with more

Knows the order of the kernels and what an implementation owes its caller (``kernels/attention.py``).
Sizes that the kernels cannot do are refused here, by name.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from vllm_jax.errors import ConfigError
from vllm_jax.kernels.cost import AttentionCost
from vllm_jax.kernels.metadata import AttentionMetadata
from vllm_jax.kernels.tpu import blocks, kernel, layout, plan, write
from vllm_jax.kernels.tpu.blocks import BlockSizes
from vllm_jax.kernels.tpu.call import AttentionCall
from vllm_jax.kernels.tpu.layout import LANES, HeadUnits, pages_dtype, pages_shape

__all__ = ["PAGE_SIZE", "check_combination", "paged_attention", "pages_dtype", "pages_shape"]

PAGE_SIZE = 64
"""Tokens of a page where the user has no wish: long enough copies, and page tables that fit scalar memory."""
PAGE_SIZES = (16, 32, 64, 128, 256)
HEAD_DIMS = (64, 80, 96, 128, 256)
DECODE_ROWS = 8


def check_combination(
    num_heads: int, num_kv_heads: int, head_dim: int, page_size: int, kv_dtype: jnp.dtype
) -> None:
    """Raises ConfigError, with the reason, for what the kernels cannot do."""
    pages_dtype(kv_dtype)
    if num_heads % num_kv_heads:
        raise ConfigError(f"{num_heads} query heads are no multiple of {num_kv_heads} KV heads")
    if head_dim not in HEAD_DIMS:
        raise ConfigError(f"TPU attention has no kernel for head dim {head_dim}; one of {HEAD_DIMS}")
    if page_size not in PAGE_SIZES:
        raise ConfigError(f"TPU attention has no kernel for --block-size {page_size}; one of {PAGE_SIZES}")


def paged_attention(
    q: jax.Array,  # [T, H, D]
    k: jax.Array,  # [T, KH, D]
    v: jax.Array,  # [T, KH, D]
    kv_pages: jax.Array,  # [N, L, page, 128]
    metadata: AttentionMetadata,
    *,
    scale: float,
    alibi_slopes: jax.Array | None = None,  # [H] float32
    sliding_window: int | None = None,
    soft_cap: float | None = None,
    sinks: jax.Array | None = None,  # [H] float32
    k_scale: float | None = None,
    v_scale: float | None = None,
    decode_sizes: BlockSizes | None = None,
    prefill_sizes: BlockSizes | None = None,
    interpret: Any = False,
) -> tuple[jax.Array, jax.Array]:
    """Writes the step's keys and values into the pages, then attends; see ``kernels/attention.py``.

    ``decode_sizes`` and ``prefill_sizes`` replace what ``blocks.py`` would choose for the chip; ``interpret``
    is that of ``pallas_call``. Both are for tests.
    """
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads = k.shape[1]
    _check_pages(kv_pages, q, k)
    page_size = kv_pages.shape[2]
    pages_per_seq = metadata.page_table.shape[1]
    out_dtype = q.dtype
    num_seqs = metadata.kv_lens.shape[0]
    is_wide = jnp.dtype(jnp.float32) in (q.dtype, kv_pages.dtype)
    q = q.astype(jnp.float32 if is_wide else jnp.bfloat16)
    flat_q = q.reshape(num_tokens, -1)  # as the model made it: what is flat from end to end, XLA never moves
    cost = AttentionCost.of(q, kv_pages, metadata.page_table, page_size, sliding_window)
    group = num_heads // num_kv_heads

    def call(units: HeadUnits, sizes: BlockSizes | None, block: int, writes: bool) -> AttentionCall:
        if sizes is None:
            chip = blocks.current_chip()
            _check_table(metadata, chip)
            sizes = blocks.choose(chip, units, page_size, q.dtype, kv_pages.dtype, block, pages_per_seq)
        return AttentionCall(
            units=units,
            sizes=sizes,
            page_size=page_size,
            pages_per_seq=pages_per_seq,
            scale=scale * (1.0 if k_scale is None else k_scale),
            value_scale=1.0 if v_scale is None else v_scale,
            sliding_window=sliding_window,
            soft_cap=soft_cap,
            writes=writes,
            flat=layout.is_flat(units, sizes.q_tokens, q.dtype),
        )

    def heads(of: AttentionCall) -> dict[str, jax.Array | None]:
        return {
            name: None if x is None else layout.arrange_head_values(x, of.units, of.sizes.q_tokens)
            for name, x in (("slopes", alibi_slopes), ("sinks", sinks))
        }

    decode = call(HeadUnits.with_rows(num_kv_heads, group, head_dim, DECODE_ROWS), decode_sizes, 1, True)
    prefill = call(HeadUnits.with_rows(num_kv_heads, group, head_dim, 1), prefill_sizes, num_tokens, False)
    decodes = plan.decoding_rows(metadata)
    pairs, num_decodes = plan.decode_pairs(metadata, sliding_window)
    mixed = not metadata.decode_only and num_tokens > 1
    row_token = jnp.where(decodes, metadata.cu_q_lens[:-1], num_tokens)
    by_row = metadata.decode_only
    if by_row:
        row_q, row_new = q, layout.stack_tokens(k, v, kv_pages.dtype, k_scale, v_scale)
    else:
        new = layout.pack_tokens(k, v, kv_pages.dtype, k_scale, v_scale)
        if mixed:
            group_size = layout.split_pages(kv_pages).shape[3]
            groups, num_groups = plan.row_groups(metadata, num_tokens, page_size, group_size)
            kv_pages = write.write_groups(
                kv_pages, new, groups, num_groups, vmem_bytes=decode.sizes.vmem_bytes, interpret=interpret
            )
        row_q = flat_q.at[row_token].get(mode="clip").reshape(num_seqs, num_heads, head_dim)
        row_new = new.at[row_token].get(mode="clip").reshape(num_seqs, -1, LANES)
    row_out, kv_pages = kernel.attend(
        decode,
        pairs,
        num_decodes,
        metadata.page_table,
        row_q if decode.flat else layout.arrange_queries(row_q, decode.units, 1),
        kv_pages,
        new=row_new,
        cost=cost.decode(num_seqs),
        interpret=interpret,
        **heads(decode),
    )
    if not decode.flat:
        row_out = layout.collect_outputs(row_out, decode.units, 1, row_q.shape[0])
    if by_row:
        return jnp.where(decodes[:, None, None], row_out, 0).astype(out_dtype), kv_pages

    def with_rows(out: jax.Array) -> jax.Array:
        out = out.at[row_token].set(row_out.reshape(num_seqs, -1), mode="drop").astype(out_dtype)
        return out.reshape(num_tokens, num_heads, head_dim)

    if not mixed:
        return with_rows(jnp.zeros_like(flat_q)), kv_pages
    block = prefill.sizes.q_tokens
    pairs = plan.prefill_pairs(metadata, num_tokens, block, sliding_window)
    out, _ = kernel.attend(
        prefill,
        pairs,
        jnp.int32(pairs.block.shape[0]),  # all: zeros where nobody prefills
        metadata.page_table,
        layout.pad_tokens(flat_q, block) if prefill.flat else layout.arrange_queries(q, prefill.units, block),
        kv_pages,
        new=None,
        cost=cost.prefill(num_tokens, num_seqs),
        interpret=interpret,
        **heads(prefill),
    )
    if not prefill.flat:
        out = layout.collect_outputs(out, prefill.units, block, num_tokens).reshape(num_tokens, -1)
    return with_rows(out[:num_tokens]), kv_pages


def _check_pages(kv_pages: jax.Array, q: jax.Array, k: jax.Array) -> None:
    """Raises ValueError where the pages are not shaped by :func:`pages_shape`, ConfigError for sizes."""
    _, num_kv_heads, head_dim = k.shape
    if not layout.is_page_dtype(kv_pages.dtype):
        raise ValueError(
            f"pages of {kv_pages.dtype} are stored otherwise: allocate them with kv_pages_dtype()"
        )
    fits = kv_pages.ndim == 4 and kv_pages.shape[3] == LANES
    if not fits or kv_pages.shape[1] != layout.lane_tiles(num_kv_heads, head_dim):
        raise ValueError(f"pages {kv_pages.shape} do not fit k {k.shape}: shape them with kv_pages_shape()")
    check_combination(q.shape[1], num_kv_heads, head_dim, kv_pages.shape[2], kv_pages.dtype)


def _check_table(metadata: AttentionMetadata, chip: blocks.Chip) -> None:
    """Raises ConfigError where the page table does not fit scalar memory."""
    num_seqs, pages_per_seq = metadata.page_table.shape
    room = int(chip.smem_bytes * blocks.USABLE_SMEM)
    if 4 * num_seqs * pages_per_seq > room:
        raise ConfigError(
            f"a page table of {num_seqs} sequences x {pages_per_seq} pages does not fit the TPU's scalar "
            f"memory ({room} bytes): take a larger --block-size, a smaller --max-model-len or fewer "
            "--max-num-seqs"
        )
