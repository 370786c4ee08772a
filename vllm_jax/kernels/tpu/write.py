"""Writes the new keys and values of prefill chunks into the pages, in place.

Knows groups of rows (``plan.py``); decoding tokens are written by the attention kernel itself. A grid step
rewrites one group of neighbouring places of a page, the smallest that whole tiles allow:

    new tokens, flat   [..., L * 128]  ... t t t|t t t t t t t t|t t ...     two aligned pieces
                                           '------.------'                  turned until the first is in place
    group of a page    [L, group, 128]   o o n n n n n n                     o: stays, n: new

The pipeline of Pallas fetches and stores the groups while others are being merged. The cost over the least
possible is that of reading each group before it is written: of a chunk, each K/V byte moves four times
(new tokens in twice, page in, page out) instead of twice.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vllm_jax.kernels.tpu.layout import LANES, pad_tokens, split_pages, tile_rows, wide_dtype
from vllm_jax.kernels.tpu.plan import RowGroups


def write_groups(
    pages: jax.Array,  # [N, L, page, 128]
    new: jax.Array,  # [T, L * 128] in the pages' dtype
    groups: RowGroups,
    num_groups: jax.Array,
    *,
    vmem_bytes: int,
    interpret: Any,
) -> jax.Array:
    """Rewrites ``num_groups`` groups of rows; everything else in ``pages`` stays as it is."""
    height = tile_rows(pages.dtype)  # of a piece; a group is smaller in small pages
    new = pad_tokens(new, height)
    last_piece, lanes = new.shape[0] // height - 1, new.shape[1]
    pages_shape, pages = pages.shape, split_pages(pages)
    scalars = [
        groups.page,
        groups.group,
        groups.token // height,
        groups.token % height,
        groups.first,
        groups.end,
    ]

    def place(index: jax.Array, page: Any, in_page: Any, *_: Any) -> tuple[Any, ...]:
        return page[index], 0, in_page[index], 0, 0

    def piece(index: jax.Array, page: Any, in_page: Any, aligned: Any, *_: Any) -> tuple[Any, ...]:
        return jnp.clip(aligned[index], 0, last_piece), 0  # outside lies nothing that is new

    def next_piece(index: jax.Array, page: Any, in_page: Any, aligned: Any, *_: Any) -> tuple[Any, ...]:
        return jnp.clip(aligned[index] + 1, 0, last_piece), 0

    block = (None, pages.shape[1], None, *pages.shape[3:])
    return pl.pallas_call(
        _merge,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(jnp.maximum(num_groups, 1),),  # none: rewrites a group as it is
            in_specs=[
                pl.BlockSpec((height, lanes), piece),
                pl.BlockSpec((height, lanes), next_piece),
                pl.BlockSpec(block, place),
            ],
            out_specs=pl.BlockSpec(block, place),
        ),
        out_shape=jax.ShapeDtypeStruct(pages.shape, pages.dtype),
        input_output_aliases={len(scalars) + 2: 0},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",), vmem_limit_bytes=vmem_bytes),
        # A step that is one chunk: its groups are read, and written; its tokens are read twice.
        cost_estimate=pl.CostEstimate(
            flops=0, transcendentals=0, bytes_accessed=4 * new.size * new.dtype.itemsize
        ),
        name="write_pages",
        interpret=interpret,
    )(*scalars, new, new, pages).reshape(pages_shape)


def row_shift(height: int, shift: jax.Array) -> jax.Array:
    """By how much to turn two pieces, ``2 * height`` rows, so that row ``shift`` comes first."""
    return jax.lax.rem(2 * height - shift, jnp.int32(2 * height))


def _merge(
    page_ref: Any,
    group_ref: Any,
    aligned_ref: Any,
    shift_ref: Any,
    first_ref: Any,
    end_ref: Any,
    piece_ref: Any,  # [height, L * 128]
    next_ref: Any,  # [height, L * 128]
    old_ref: Any,  # [L, group, 128]
    out_ref: Any,  # [L, group, 128]
) -> None:
    del page_ref, group_ref, aligned_ref
    step = pl.program_id(0)
    num_tiles, group, _ = old_ref.shape
    shift, first, end = shift_ref[step], first_ref[step], end_ref[step]
    place = jax.lax.broadcasted_iota(jnp.int32, (group, LANES), 0)
    is_new = (place >= first) & (place < end)
    wide = wide_dtype(out_ref.dtype)

    def one_tile(tile: jax.Array, _: None) -> None:
        lanes = pl.ds(pl.multiple_of(tile * LANES, LANES), LANES)
        pieces = jnp.concatenate([ref[:, lanes].astype(wide) for ref in (piece_ref, next_ref)], axis=0)
        turned = pltpu.roll(pieces, row_shift(piece_ref.shape[0], shift), 0)[:group]
        out_ref[tile] = jnp.where(is_new, turned, old_ref[tile].astype(wide)).astype(out_ref.dtype)

    jax.lax.fori_loop(0, num_tiles, one_tile, None)
