"""What moves between HBM and the two buffers: pages in, a new token's group of rows out.

    buffer [L, C / group, group, 128]    page, page, ...   a copy each, all on the buffer's semaphore
    written [L, group, 128]              the new token between its neighbours, on its way to HBM

Knows copies and semaphores, and what is in a buffer's places. Does not know what is computed.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vllm_jax.kernels.tpu.call import AttentionCall, Refs
from vllm_jax.kernels.tpu.layout import LANES


def other(slot: jax.Array) -> jax.Array:
    """The buffer that is filled while ``slot`` is computed on."""
    return 1 - slot


def first_block(call: AttentionCall, refs: Refs, pair: Any) -> jax.Array:
    """The block that holds the first key which the pair sees."""
    return jax.lax.div(refs.pairs.begin[pair], jnp.int32(call.sizes.kv_tokens))


def _page_number(call: AttentionCall, refs: Refs, pair: Any, index: jax.Array) -> jax.Array:
    return refs.table[refs.pairs.seq[pair] * call.pages_per_seq + index]


def _pages_of_block(
    call: AttentionCall, refs: Refs, pair: Any, block: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The first of a sequence's pages in the block with a key that the pair sees, and one past the last."""
    size, page_size = call.sizes.kv_tokens, jnp.int32(call.page_size)
    begin = jnp.maximum(refs.pairs.begin[pair], block * size)
    end = jnp.minimum(refs.pairs.end[pair], (block + 1) * size)
    return jax.lax.div(begin, page_size), pl.cdiv(end, page_size)


def start_copies(call: AttentionCall, refs: Refs, pair: Any, block: jax.Array, slot: Any) -> None:
    """Starts the copy of every page of the block that holds a key the pair sees."""
    first, end = _pages_of_block(call, refs, pair, block)
    groups = call.page_size // refs.buffers.shape[3]  # of a page
    before = block * (call.sizes.kv_tokens // call.page_size)

    def one_page(index: jax.Array, _: None) -> None:
        pltpu.make_async_copy(
            refs.pages.at[_page_number(call, refs, pair, index)],
            refs.buffers.at[slot, :, pl.ds((index - before) * groups, groups)],
            refs.arrived.at[slot],
        ).start()

    jax.lax.fori_loop(first, end, one_page, None)


def wait_for_copies(call: AttentionCall, refs: Refs, pair: Any, block: jax.Array, slot: Any) -> None:
    """Waits for all of them. Semaphores count bytes: the number of pages is waited for bit by bit."""
    first, end = _pages_of_block(call, refs, pair, block)
    groups = call.page_size // refs.buffers.shape[3]
    for bit in range((call.sizes.kv_tokens // call.page_size).bit_length()):

        @pl.when((end - first) & (1 << bit) != 0)
        def _some(bit: int = bit) -> None:
            some = refs.buffers.at[slot, :, pl.ds(0, groups << bit)]
            _wait_copy(pltpu.make_async_copy(some, some, refs.arrived.at[slot]))


def _wait_copy(copy: Any) -> None:
    copy.wait()


def sent_group(refs: Refs, page: Any, group: Any) -> Any:
    """The copy of the written group of rows to its place in HBM."""
    return pltpu.make_async_copy(refs.written, refs.pages.at[page, :, group], refs.sent)


def write_token(call: AttentionCall, refs: Refs, pair: jax.Array, block: jax.Array, slot: jax.Array) -> None:
    """Puts the pair's new token into the buffer and sends the rows around it to HBM."""
    height = jnp.int32(refs.written.shape[1])
    position = refs.pairs.position[pair]
    group = jax.lax.div(position - block * call.sizes.kv_tokens, height)
    in_page = jax.lax.div(jax.lax.rem(position, jnp.int32(call.page_size)), height)

    @pl.when(pair > 0)
    def _earlier_write() -> None:
        sent_group(refs, 0, 0).wait()

    refs.token[...] = refs.new[...].astype(refs.token.dtype)
    row = jax.lax.broadcasted_iota(jnp.int32, refs.written.shape[1:], 0)
    is_new = row == jax.lax.rem(position, height)

    def one_tile(tile: jax.Array, _: None) -> None:
        old = refs.buffers[slot, tile, group].astype(refs.token.dtype)
        merged = jnp.where(is_new, refs.token[pl.ds(tile, 1), :], old).astype(refs.written.dtype)
        refs.buffers[slot, tile, group] = merged
        refs.written[tile] = merged

    jax.lax.fori_loop(0, refs.written.shape[0], one_tile, None)
    page = _page_number(call, refs, pair, jax.lax.div(position, jnp.int32(call.page_size)))
    sent_group(refs, page, in_page).start()


def clear_buffers(refs: Refs) -> None:
    """Zeroes both buffers, once: what lies in VMEM may be NaN, and 0 * NaN is NaN."""
    num_tiles = refs.buffers.shape[1]
    zeros = jnp.zeros(refs.buffers.shape[2:], jnp.float32).astype(refs.buffers.dtype)

    def one_tile(tile: jax.Array, _: None) -> None:
        refs.buffers[0, tile] = zeros
        refs.buffers[1, tile] = zeros

    jax.lax.fori_loop(0, num_tiles, one_tile, None)


def clear_values(call: AttentionCall, refs: Refs, slot: jax.Array, end: jax.Array) -> None:
    """Zeroes the values from place ``end`` to the end of its page: nobody wrote them, so they may be NaN.

    Whatever else a buffer holds was visible to some pair, or was cleared.
    """
    num_tiles, _, group, _ = refs.buffers.shape[1:]
    row = jax.lax.broadcasted_iota(jnp.int32, (group, LANES), 0)

    def one_group(index: jax.Array, _: None) -> None:
        def one_tile(tile: jax.Array, _: None) -> None:
            values = refs.buffers[slot, tile, index].astype(jnp.float32)
            kept = jnp.where(index * group + row < end, values, 0.0).astype(refs.buffers.dtype)
            refs.buffers[slot, tile, index] = kept

        jax.lax.fori_loop(min(call.units.values.first), num_tiles, one_tile, None)

    page_end = pl.cdiv(end, call.page_size) * call.page_size
    jax.lax.fori_loop(
        jax.lax.div(end, jnp.int32(group)), jax.lax.div(page_end, jnp.int32(group)), one_group, None
    )
