"""The TPU attention kernel: one body for decoding and for prefill, which differ in what a grid step holds.

Knows one core's work: blocks of queries, pages in HBM, two buffers in VMEM. Does not know batches (the pairs
of ``plan.py`` say what to do), nor how heads lie in lanes (the units of ``layout.py`` say where to look).

    grid step i              a block of query tokens (decode: one token of one sequence), all heads
      pair p                 a sequence that has tokens in the block
        keys, C at a time    from the first that a token of the pair sees to the last
          unit u             hb KV heads: scores [M, C], online softmax, values [M, W]

    HBM    pages [N, L, page, 128]
              |  one copy a page, only pages that hold a visible key
              v
    VMEM   buffer 0 [L, C, 128]   <- being computed on
           buffer 1 [L, C, 128]   <- being filled: the next keys, of this pair, the next pair or the next step

The copies run ahead across pairs and grid steps, so that only the very first is waited for in full. In decode
a step also puts the sequence's new token into its buffer, attends over it there, and sends the group of rows
around it back to HBM while the step goes on.

Softmax is online (Milakov and Gimelshein, 2018) with float32 state. Products take bfloat16 into float32, or
float32 in full precision where queries or pages are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vllm_jax.kernels.tpu.blocks import BlockSizes
from vllm_jax.kernels.tpu.layout import LANES, HeadUnits, split_pages
from vllm_jax.kernels.tpu.plan import Pairs

MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)
MAX_UNROLLED_UNITS = 8
_TRANSPOSED = (((1,), (1,)), ((), ()))
"""``x [M, K]`` times the transpose of ``y [N, K]``."""


@dataclass(frozen=True)
class AttentionCall:
    """What is static in a kernel.

    Attributes:
        units: heads and where they lie.
        sizes: block sizes.
        page_size: tokens of a page.
        pages_per_seq: width of the page table.
        scale: multiplies the stored scores (the keys' scale is in it).
        value_scale: multiplies the result.
        sliding_window: see ``kernels/attention.py``.
        soft_cap: see ``kernels/attention.py``.
        writes: whether the steps write their new token.
        flat: whether queries and results are ``[T, H * D]``, and heads are laid out here.
    """

    units: HeadUnits
    sizes: BlockSizes
    page_size: int
    pages_per_seq: int
    scale: float
    value_scale: float
    sliding_window: int | None
    soft_cap: float | None
    writes: bool
    flat: bool


@dataclass(frozen=True)
class _Refs:
    """The references of one call. Scalars in SMEM: those of :class:`Pairs`, and ``table [S * P]``.

    ``slopes`` and ``sinks [U, M, 128]`` or None and ``new [1, L, 1, 128]`` or None are VMEM blocks, ``pages
    [N, L, page / group, group, 128]`` is in HBM. ``buffers [2, L, C / group, group, 128]``, ``peak``, ``total
    [U, M, 128]`` (equal lanes), ``acc [U, M, W]`` and ``written [L, group, 128]`` stay from step to step;
    ``turn [1]`` is the buffer whose turn it is.

    ``q [U, M, W]`` and ``out [U, M, W]`` are VMEM blocks. In a flat call ``flat_q`` and ``out`` are blocks
    ``[B, H * D]``, and ``q`` is scratch, filled at the beginning of a step.
    """

    pairs: Pairs
    table: Any
    flat_q: Any
    q: Any
    slopes: Any
    sinks: Any
    new: Any
    out: Any
    pages: Any
    buffers: Any
    arrived: Any
    peak: Any
    total: Any
    acc: Any
    turn: Any
    written: Any
    sent: Any


def attend(
    call: AttentionCall,
    pairs: Pairs,
    num_steps: jax.Array,
    page_table: jax.Array,  # [S, P] int32
    q: jax.Array,  # [n, U, M, W], in a flat call [n * B, H * D]
    pages: jax.Array,  # [N, L, page, 128]
    *,
    slopes: jax.Array | None,  # [U, M, 128] float32
    sinks: jax.Array | None,  # [U, M, 128] float32
    new: jax.Array | None,  # [n, L, 1, 128] in the pages' dtype, where the call writes
    cost: pl.CostEstimate | None,
    interpret: Any,
) -> tuple[jax.Array, jax.Array]:
    """Runs the kernel over ``num_steps`` grid steps, or one that does nothing where there are none.

    Returns:
        ``(out [n, U, M, lanes of a value window] in q's dtype, pages)``; in a flat call ``out`` is shaped as
        ``q``. Blocks of ``out`` that no step belongs to are not written at all.
    """
    units, sizes = call.units, call.sizes
    num_rows = units.num_rows(sizes.q_tokens)
    num_tiles = pages.shape[1]
    key_lanes = units.keys.num_tiles * LANES
    value_lanes = units.values.num_tiles * LANES
    pages_shape, pages = pages.shape, split_pages(pages)
    group = pages.shape[3]

    def step_block(index: jax.Array, first: Any, block: Any, *_: Any) -> tuple[Any, ...]:
        del first
        return block[index], 0, 0, 0

    def constant(index: jax.Array, *_: Any) -> tuple[int, ...]:
        del index
        return 0, 0, 0

    def token_block(index: jax.Array, first: Any, block: Any, *_: Any) -> tuple[Any, ...]:
        del first
        return block[index], 0

    inputs: list[jax.Array] = [q]
    if call.flat:
        q_spec = out_spec = pl.BlockSpec((sizes.q_tokens, q.shape[1]), token_block)
        results_shape = q.shape
    else:
        q_spec = pl.BlockSpec((1, *q.shape[1:]), step_block)
        out_spec = pl.BlockSpec((1, *q.shape[1:3], value_lanes), step_block)
        results_shape = (*q.shape[:3], value_lanes)
    in_specs = [q_spec]
    for a_row in (slopes, sinks):
        if a_row is not None:
            inputs.append(a_row)
            in_specs.append(pl.BlockSpec(a_row.shape, constant))
    if new is not None:
        inputs.append(new)
        in_specs.append(pl.BlockSpec((1, *new.shape[1:]), step_block))
    inputs.append(pages)
    in_specs.append(pl.BlockSpec(memory_space=pl.ANY))
    scalars = [*pairs, page_table.reshape(-1)]
    out_shape = [jax.ShapeDtypeStruct(results_shape, q.dtype)]
    out_specs = [out_spec]
    scratch = [
        pltpu.VMEM((2, num_tiles, sizes.kv_tokens // group, group, LANES), pages.dtype),
        pltpu.SemaphoreType.DMA((2,)),
        pltpu.VMEM((units.num_units, num_rows, LANES), jnp.float32),
        pltpu.VMEM((units.num_units, num_rows, LANES), jnp.float32),
        pltpu.VMEM((units.num_units, num_rows, value_lanes), jnp.float32),
        pltpu.SMEM((1,), jnp.int32),
    ]
    if call.writes:
        out_shape.append(jax.ShapeDtypeStruct(pages.shape, pages.dtype))
        out_specs.append(pl.BlockSpec(memory_space=pl.ANY))
        scratch.append(pltpu.VMEM((num_tiles, group, LANES), pages.dtype))
        scratch.append(pltpu.SemaphoreType.DMA(()))
    if call.flat:
        scratch.append(pltpu.VMEM((units.num_units, num_rows, key_lanes), q.dtype))
    has_slopes, has_sinks = slopes is not None, sinks is not None

    def body(*refs: Any) -> None:
        left = iter(refs)
        refs_of_pairs = Pairs(*(next(left) for _ in Pairs._fields))
        table, queries = next(left), next(left)
        row_slopes = next(left) if has_slopes else None
        row_sinks = next(left) if has_sinks else None
        new_token = next(left) if call.writes else None
        pages_in, out = next(left), next(left)
        pages_out = next(left) if call.writes else pages_in
        arrays = [next(left) for _ in range(6)]
        writing = [next(left), next(left)] if call.writes else [None, None]
        flat_queries = queries if call.flat else None
        queries = next(left) if call.flat else queries.at[0]
        out = out if call.flat else out.at[0]
        buffers, arrived, peak, total, acc, turn = arrays
        _step(
            call,
            _Refs(
                refs_of_pairs,
                table,
                flat_queries,
                queries,
                row_slopes,
                row_sinks,
                new_token,
                out,
                pages_out,
                buffers,
                arrived,
                peak,
                total,
                acc,
                turn,
                *writing,
            ),
        )

    results = pl.pallas_call(
        body,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(jnp.maximum(num_steps, 1),),
            in_specs=in_specs,
            out_specs=out_specs,
            scratch_shapes=scratch,
        ),
        out_shape=out_shape,
        input_output_aliases={len(scalars) + len(inputs) - 1: 1} if call.writes else {},
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), vmem_limit_bytes=sizes.vmem_bytes
        ),
        cost_estimate=cost,
        name="paged_decode" if call.writes else "paged_prefill",
        interpret=interpret,
    )(*scalars, *inputs)
    return results[0], (results[1] if call.writes else pages).reshape(pages_shape)


def _step(call: AttentionCall, refs: _Refs) -> None:
    """One grid step: a block of queries against all its pairs."""
    step = pl.program_id(0)
    num_pairs = refs.pairs.first[pl.num_programs(0)]

    @pl.when(step == 0)
    def _first_copy() -> None:
        refs.turn[0] = 0
        if jnp.issubdtype(refs.buffers.dtype, jnp.floating):
            _clear_buffers(refs)

        @pl.when(num_pairs > 0)
        def _start() -> None:
            _each_page(call, refs, 0, _first_block(call, refs, 0), 0, _start_copy)

    def begin_unit(unit: jax.Array, _: None) -> None:
        if call.flat:
            _stack_queries(call, refs, unit)
        # A sink is one more score, its weight in the sum already, without a value.
        shape = refs.peak.shape[1:]
        has_sink = refs.sinks is not None
        refs.peak[unit] = refs.sinks[unit] if has_sink else jnp.full(shape, MASKED, jnp.float32)
        refs.total[unit] = jnp.full(shape, 1.0 if has_sink else 0.0, jnp.float32)
        refs.acc[unit] = jnp.zeros(refs.acc.shape[1:], jnp.float32)

    jax.lax.fori_loop(0, call.units.num_units, begin_unit, None)

    def attend_pair(pair: jax.Array, _: None) -> None:
        first = _first_block(call, refs, pair)
        last = pl.cdiv(refs.pairs.end[pair], call.sizes.kv_tokens) - 1

        def attend_block(block: jax.Array, _: None) -> None:
            _attend_block(call, refs, pair, block, last, num_pairs)

        jax.lax.fori_loop(first, last + 1, attend_block, None)

    jax.lax.fori_loop(refs.pairs.first[step], refs.pairs.first[step + 1], attend_pair, None)

    def end_unit(unit: jax.Array, _: None) -> None:
        total = refs.total[unit]
        unseeing = refs.peak[unit] == MASKED  # rows of no pair
        factor = jnp.where(unseeing, 0.0, call.value_scale / jnp.where(unseeing, 1.0, total))
        for tile in range(call.units.values.num_tiles):
            lanes = slice(tile * LANES, (tile + 1) * LANES)
            result = (refs.acc[unit, :, lanes] * factor).astype(refs.out.dtype)
            if call.flat:
                _spread_result(call, refs, unit, tile, result)
            else:
                refs.out[unit, :, lanes] = result

    jax.lax.fori_loop(0, call.units.num_units, end_unit, None)

    if call.writes:

        @pl.when((step == pl.num_programs(0) - 1) & (num_pairs > 0))
        def _last_write() -> None:
            _sent_group(refs, 0, 0).wait()


def _stack_queries(call: AttentionCall, refs: _Refs, unit: jax.Array) -> None:
    """Lays a unit's query heads, which lie beside each other in ``flat_q``, below each other in ``q``."""
    block, head_dim = call.sizes.q_tokens, call.units.head_dim
    for head in range(call.units.group):
        lanes = pl.ds(pl.multiple_of((unit * call.units.group + head) * head_dim, LANES), head_dim)
        refs.q[unit, head * block : (head + 1) * block, :] = refs.flat_q[:, lanes]


def _spread_result(call: AttentionCall, refs: _Refs, unit: jax.Array, tile: int, result: jax.Array) -> None:
    """Lays one tile of a unit's results ``[M, 128]`` beside each other, a head's tokens as they came."""
    block, head_dim = call.sizes.q_tokens, call.units.head_dim
    for head in range(call.units.group):
        first = (unit * call.units.group + head) * head_dim + tile * LANES
        lanes = pl.ds(pl.multiple_of(first, LANES), LANES)
        refs.out[:, lanes] = result[head * block : (head + 1) * block]


def _attend_block(
    call: AttentionCall, refs: _Refs, pair: jax.Array, block: jax.Array, last: jax.Array, num_pairs: jax.Array
) -> None:
    """Attends over C keys: starts the next copies, waits for these, and adds them to the running softmax."""
    slot = refs.turn[0]
    is_last = block == last
    following = jnp.where(is_last, pair + 1, pair)
    following_block = jnp.where(
        is_last, _first_block(call, refs, jnp.minimum(pair + 1, num_pairs - 1)), block + 1
    )

    @pl.when(following < num_pairs)
    def _run_ahead() -> None:
        _each_page(call, refs, following, following_block, _other(slot), _start_copy)

    _each_page(call, refs, pair, block, slot, _wait_copy)
    refs.turn[0] = _other(slot)
    if call.writes:

        @pl.when(is_last)
        def _write() -> None:
            _write_token(call, refs, pair, block, slot)

    size = call.sizes.kv_tokens
    if jnp.issubdtype(refs.buffers.dtype, jnp.floating):

        @pl.when(is_last)
        def _clear() -> None:
            _clear_values(call, refs, slot, refs.pairs.end[pair] - block * size)

    keys = block * size + jax.lax.broadcasted_iota(jnp.int32, (1, size), 1)
    positions, limits = _row_positions(call, refs, pair)
    visible = _visible(keys, limits, call.sliding_window)
    distance = (keys - positions).astype(jnp.float32) if refs.slopes is not None else None
    attend_units = partial(_attend_units, call, refs, slot, visible, distance)
    units = call.units
    places = list(zip(range(units.num_units), units.keys.first, units.values.first, strict=True))
    if call.sizes.q_tokens == 1:  # few rows: one softmax over all units, so that their products overlap
        attend_units(places)
    elif units.num_units <= MAX_UNROLLED_UNITS:
        for place in places:
            attend_units([place])
    else:

        def one_of_many(unit: jax.Array, _: None) -> None:
            attend_units([(unit, _tile_of(units.keys.first, unit), _tile_of(units.values.first, unit))])

        jax.lax.fori_loop(0, units.num_units, one_of_many, None)


def _tile_of(first: tuple[int, ...], unit: jax.Array) -> jax.Array:
    """``first[unit]`` without a table: the tiles of windows climb by one step or unevenly."""
    stride = first[1] - first[0]
    if all(tile == first[0] + stride * u for u, tile in enumerate(first)):
        return first[0] + stride * unit
    tile = jnp.int32(first[0])
    for u, (before, after) in enumerate(pairwise(first)):
        tile = tile + jnp.where(unit > u, after - before, 0)
    return tile


def _row_positions(call: AttentionCall, refs: _Refs, pair: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Position of each row's query, and the last key it sees: -1 for rows of other sequences.

    ``[M, 1]`` int32 both; scalars where a step has one token.
    """
    position = refs.pairs.position[pair]
    if call.sizes.q_tokens == 1:
        return position, position
    num_rows = refs.peak.shape[1]
    row = jax.lax.broadcasted_iota(jnp.int32, (num_rows, 1), 0)
    token = jax.lax.rem(row, jnp.int32(call.sizes.q_tokens))
    is_pairs = (token >= refs.pairs.first_token[pair]) & (token < refs.pairs.end_token[pair])
    return position + token, jnp.where(is_pairs, position + token, -1)


def _visible(keys: jax.Array, limits: jax.Array, sliding_window: int | None) -> jax.Array:
    """Which keys a row sees: ``[M or 1, C]`` bool."""
    visible = keys <= limits
    if sliding_window is not None:
        visible &= keys > limits - sliding_window
    return visible


def _row_slopes(refs: _Refs, unit: Any) -> jax.Array:
    """``[M, 1]`` float32: the ALiBi slope of each row's head."""
    return refs.slopes[unit][:, :1]


def _attend_units(
    call: AttentionCall,
    refs: _Refs,
    slot: jax.Array,
    visible: jax.Array,  # [M or 1, C] bool; with several units [1, C]
    distance: jax.Array | None,  # the same, float32
    places: list[tuple[Any, Any, Any]],
) -> None:
    """Scores, online softmax and weighted values of some units over the C keys of a buffer.

    ``places`` are (unit, first tile of its keys, of its values); their rows lie below each other, R in all.
    """
    dtype = refs.q.dtype
    num_rows = refs.peak.shape[1]
    dot = partial(
        jax.lax.dot_general,
        preferred_element_type=jnp.float32,
        precision="highest" if dtype == jnp.float32 else None,
    )

    def stacked(parts: Iterable[jax.Array]) -> jax.Array:
        parts = list(parts)
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=0)

    def unit_scores(unit: Any, key_tile: Any) -> jax.Array:
        total = jnp.zeros((), jnp.float32)
        for tile in range(call.units.keys.num_tiles):
            part = dot(
                refs.q[unit, :, tile * LANES : (tile + 1) * LANES],
                _tile(refs, slot, key_tile + tile, dtype),
                _TRANSPOSED,
            )
            total = part if tile == 0 else total + part
        return total

    scores = stacked(unit_scores(unit, key_tile) for unit, key_tile, _ in places) * call.scale  # [R, C]
    if call.soft_cap is not None:
        scores = call.soft_cap * jnp.tanh(scores / call.soft_cap)
    if distance is not None:
        scores = scores + stacked(_row_slopes(refs, unit) for unit, _, _ in places) * distance
    scores = jnp.where(visible, scores, MASKED)

    # A row that has seen nothing yet adds up what it must not see, with the peak MASKED: the first key that
    # it does see fades all of it to zero.
    peak = stacked(refs.peak[unit] for unit, _, _ in places)
    new_peak = jnp.maximum(peak, jnp.max(scores, axis=1, keepdims=True))
    weights = jnp.exp(scores - new_peak[:, :1])
    fades = jnp.exp(peak - new_peak)
    sums = jnp.sum(weights, axis=1, keepdims=True)
    for index, (unit, _, value_tile) in enumerate(places):
        rows = slice(index * num_rows, (index + 1) * num_rows)
        fade, unit_weights = fades[rows], weights[rows].astype(dtype)
        refs.peak[unit] = new_peak[rows]
        refs.total[unit] = refs.total[unit] * fade + sums[rows]
        for tile in range(call.units.values.num_tiles):
            lanes = slice(tile * LANES, (tile + 1) * LANES)
            values = _tile(refs, slot, value_tile + tile, dtype)
            part = dot(unit_weights, values, (((1,), (0,)), ((), ())))
            refs.acc[unit, :, lanes] = refs.acc[unit, :, lanes] * fade + part


def _clear_buffers(refs: _Refs) -> None:
    """Zeroes both buffers, once: what lies in VMEM may be NaN, and 0 * NaN is NaN."""
    num_tiles = refs.buffers.shape[1]
    zeros = jnp.zeros(refs.buffers.shape[2:], jnp.float32).astype(refs.buffers.dtype)

    def one_tile(tile: jax.Array, _: None) -> None:
        refs.buffers[0, tile] = zeros
        refs.buffers[1, tile] = zeros

    jax.lax.fori_loop(0, num_tiles, one_tile, None)


def _clear_values(call: AttentionCall, refs: _Refs, slot: jax.Array, end: jax.Array) -> None:
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


def _tile(refs: _Refs, slot: jax.Array, tile: Any, dtype: jnp.dtype) -> jax.Array:
    """A tile of a buffer ``[C, 128]`` as the products take it; narrow numbers go through float32."""
    x = refs.buffers[slot, tile]  # [C / group, group, 128]
    if x.dtype != dtype:
        x = x.astype(jnp.float32).astype(dtype)
    return x.reshape(-1, LANES)


# --- copies -------------------------------------------------------------------------------------------


def _other(slot: jax.Array) -> jax.Array:
    """The buffer that is filled while ``slot`` is computed on."""
    return 1 - slot


def _first_block(call: AttentionCall, refs: _Refs, pair: Any) -> jax.Array:
    return jax.lax.div(refs.pairs.begin[pair], jnp.int32(call.sizes.kv_tokens))


def _page_number(call: AttentionCall, refs: _Refs, pair: Any, index: jax.Array) -> jax.Array:
    return refs.table[refs.pairs.seq[pair] * call.pages_per_seq + index]


def _each_page(
    call: AttentionCall, refs: _Refs, pair: Any, block: jax.Array, slot: Any, act: Callable[[Any], None]
) -> None:
    """``act`` on the copy of every page of the block that holds a key the pair sees."""
    size, page_size = call.sizes.kv_tokens, call.page_size
    groups = page_size // refs.buffers.shape[3]  # of a page
    begin = jnp.maximum(refs.pairs.begin[pair], block * size)
    end = jnp.minimum(refs.pairs.end[pair], (block + 1) * size)

    def one_page(index: jax.Array, _: None) -> None:
        first = (index - block * (size // page_size)) * groups
        act(
            pltpu.make_async_copy(
                refs.pages.at[_page_number(call, refs, pair, index)],
                refs.buffers.at[slot, :, pl.ds(first, groups)],
                refs.arrived.at[slot],
            )
        )

    jax.lax.fori_loop(jax.lax.div(begin, jnp.int32(page_size)), pl.cdiv(end, page_size), one_page, None)


def _start_copy(copy: Any) -> None:
    copy.start()


def _wait_copy(copy: Any) -> None:
    copy.wait()


def _sent_group(refs: _Refs, page: Any, group: Any) -> Any:
    """The copy of the written group of rows to its place in HBM."""
    return pltpu.make_async_copy(refs.written, refs.pages.at[page, :, group], refs.sent)


def _write_token(
    call: AttentionCall, refs: _Refs, pair: jax.Array, block: jax.Array, slot: jax.Array
) -> None:
    """Puts the pair's new token into the buffer and sends the rows around it to HBM."""
    height = jnp.int32(refs.written.shape[1])
    position = refs.pairs.position[pair]
    group = jax.lax.div(position - block * call.sizes.kv_tokens, height)
    in_page = jax.lax.div(jax.lax.rem(position, jnp.int32(call.page_size)), height)

    @pl.when(pair > 0)
    def _earlier_write() -> None:
        _sent_group(refs, 0, 0).wait()

    wide = jnp.float32 if jnp.issubdtype(refs.written.dtype, jnp.floating) else jnp.int32
    row = jax.lax.broadcasted_iota(jnp.int32, refs.written.shape[1:], 0)
    is_new = row == jax.lax.rem(position, height)

    def one_tile(tile: jax.Array, _: None) -> None:
        old = refs.buffers[slot, tile, group].astype(wide)
        merged = jnp.where(is_new, refs.new[0, tile].astype(wide), old).astype(refs.written.dtype)
        refs.buffers[slot, tile, group] = merged
        refs.written[tile] = merged

    jax.lax.fori_loop(0, refs.written.shape[0], one_tile, None)
    page = _page_number(call, refs, pair, jax.lax.div(position, jnp.int32(call.page_size)))
    _sent_group(refs, page, in_page).start()
