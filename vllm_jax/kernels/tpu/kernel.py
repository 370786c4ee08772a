"""The TPU attention kernel: one body for decoding and for prefill, which differ in what a grid step holds.

Knows one core's work: blocks of queries against the keys in two buffers. Does not know batches (the pairs of
``plan.py`` say what to do), how heads lie in lanes (the units of ``layout.py`` say where to look), nor how
pages come and go (``copies.py``).

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

from collections.abc import Iterable
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vllm_jax.kernels.tpu import copies, heads
from vllm_jax.kernels.tpu.call import MASKED, AttentionCall, Refs
from vllm_jax.kernels.tpu.layout import LANES, split_pages, wide_dtype
from vllm_jax.kernels.tpu.plan import Pairs

MAX_UNROLLED_UNITS = 8
_TRANSPOSED = (((1,), (1,)), ((), ()))
"""``x [M, K]`` times the transpose of ``y [N, K]``."""


def attend(
    call: AttentionCall,
    pairs: Pairs,
    num_steps: jax.Array,
    page_table: jax.Array,  # [S, P] int32
    q: jax.Array,  # [n, U, M, W]; in a flat call [n * B, H * D], or of one token [n, H, D]
    pages: jax.Array,  # [N, L, page, 128]
    *,
    slopes: jax.Array | None,  # [U, M, 128] float32
    sinks: jax.Array | None,  # [U, M, 128] float32
    new: jax.Array | None,  # [n, L, 128] in the pages' dtype, where the call writes
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

    def constant(index: jax.Array, *_: Any) -> tuple[int, ...]:
        del index
        return 0, 0, 0

    def a_step(*shape: int | None) -> pl.BlockSpec:
        def place(index: jax.Array, first: Any, block: Any, *_: Any) -> tuple[Any, ...]:
            del first
            return block[index], *(0 for _ in shape[1:])

        return pl.BlockSpec(shape, place)

    inputs: list[jax.Array] = [q]
    if call.flat:
        q_spec = out_spec = a_step(None if call.one_token else sizes.q_tokens, *q.shape[1:])
        results_shape = q.shape
    else:
        results_shape = (*q.shape[:3], value_lanes)
        q_spec, out_spec = a_step(None, *q.shape[1:]), a_step(None, *results_shape[1:])
    in_specs = [q_spec]
    for a_row in (slopes, sinks):
        if a_row is not None:
            inputs.append(a_row)
            in_specs.append(pl.BlockSpec(a_row.shape, constant))
    if new is not None:
        inputs.append(new)
        in_specs.append(a_step(None, *new.shape[1:]))
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
        scratch.append(pltpu.VMEM((num_tiles, LANES), wide_dtype(pages.dtype)))
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
        writing = [next(left) if call.writes else None for _ in range(3)]
        flat_queries = queries if call.flat else None
        queries = next(left) if call.flat else queries
        buffers, arrived, peak, total, acc, turn = arrays
        _step(
            call,
            Refs(
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


def _step(call: AttentionCall, refs: Refs) -> None:
    """One grid step: a block of queries against all its pairs."""
    step = pl.program_id(0)
    num_pairs = refs.pairs.first[pl.num_programs(0)]

    @pl.when(step == 0)
    def _first_copy() -> None:
        refs.turn[0] = 0
        if jnp.issubdtype(refs.buffers.dtype, jnp.floating):
            copies.clear_buffers(refs)

        @pl.when(num_pairs > 0)
        def _start() -> None:
            copies.start_copies(call, refs, 0, copies.first_block(call, refs, 0), 0)

    if call.flat and call.one_token:
        heads.spread_heads(call, refs)

    def begin_unit(unit: jax.Array, _: None) -> None:
        if call.flat and not call.one_token:
            heads.stack_queries(call, refs, unit)
        # A sink is one more score, its weight in the sum already, without a value.
        shape = refs.peak.shape[1:]
        has_sink = refs.sinks is not None
        refs.peak[unit] = refs.sinks[unit] if has_sink else jnp.full(shape, MASKED, jnp.float32)
        refs.total[unit] = jnp.full(shape, 1.0 if has_sink else 0.0, jnp.float32)
        refs.acc[unit] = jnp.zeros(refs.acc.shape[1:], jnp.float32)

    jax.lax.fori_loop(0, call.units.num_units, begin_unit, None)

    def attend_pair(pair: jax.Array, _: None) -> None:
        first = copies.first_block(call, refs, pair)
        last = pl.cdiv(refs.pairs.end[pair], call.sizes.kv_tokens) - 1

        def attend_block(block: jax.Array, _: None) -> None:
            _attend_block(call, refs, pair, block, last, num_pairs)

        jax.lax.fori_loop(first, last + 1, attend_block, None)

    jax.lax.fori_loop(refs.pairs.first[step], refs.pairs.first[step + 1], attend_pair, None)

    def end_unit(unit: jax.Array, _: None) -> None:
        factor = heads.result_factor(call, refs, unit)
        for tile in range(call.units.values.num_tiles):
            lanes = slice(tile * LANES, (tile + 1) * LANES)
            result = (refs.acc[unit, :, lanes] * factor).astype(refs.out.dtype)
            if call.flat:
                heads.spread_result(call, refs, unit, tile, result)
            else:
                refs.out[unit, :, lanes] = result

    if call.flat and call.one_token:
        heads.gather_heads(call, refs)
    else:
        jax.lax.fori_loop(0, call.units.num_units, end_unit, None)

    if call.writes:

        @pl.when((step == pl.num_programs(0) - 1) & (num_pairs > 0))
        def _last_write() -> None:
            copies.sent_group(refs, 0, 0).wait()


def _attend_block(
    call: AttentionCall, refs: Refs, pair: jax.Array, block: jax.Array, last: jax.Array, num_pairs: jax.Array
) -> None:
    """Attends over C keys: starts the next copies, waits for these, and adds them to the running softmax."""
    slot = refs.turn[0]
    is_last = block == last
    following = jnp.where(is_last, pair + 1, pair)
    following_block = jnp.where(
        is_last, copies.first_block(call, refs, jnp.minimum(pair + 1, num_pairs - 1)), block + 1
    )

    @pl.when(following < num_pairs)
    def _run_ahead() -> None:
        copies.start_copies(call, refs, following, following_block, copies.other(slot))

    copies.wait_for_copies(call, refs, pair, block, slot)
    refs.turn[0] = copies.other(slot)
    if call.writes:

        @pl.when(is_last)
        def _write() -> None:
            copies.write_token(call, refs, pair, block, slot)

    size = call.sizes.kv_tokens
    if jnp.issubdtype(refs.buffers.dtype, jnp.floating):

        @pl.when(is_last)
        def _clear() -> None:
            copies.clear_values(call, refs, slot, refs.pairs.end[pair] - block * size)

    keys = block * size + jax.lax.broadcasted_iota(jnp.int32, (1, size), 1)
    positions, limits = _row_positions(call, refs, pair)
    visible = _visible(keys, limits, call.sliding_window)
    distance = (keys - positions).astype(jnp.float32) if refs.slopes is not None else None
    attend_units = partial(_attend_units, call, refs, slot, visible, distance)
    units = call.units
    places = list(zip(range(units.num_units), units.keys.first, units.values.first, strict=True))
    if call.one_token:  # few rows: one softmax over all units, so that their products overlap
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


def _row_positions(call: AttentionCall, refs: Refs, pair: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Position of each row's query, and the last key it sees: -1 for rows of other sequences.

    ``[M, 1]`` int32 both; scalars where a step has one token.
    """
    position = refs.pairs.position[pair]
    if call.one_token:
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


def _row_slopes(refs: Refs, unit: Any) -> jax.Array:
    """``[M, 128]`` float32: the ALiBi slope of each row's head in every lane."""
    return refs.slopes[unit]


def _repeated(x: jax.Array, width: int) -> jax.Array:
    """``[M, 128]`` of equal lanes as ``[M, width]``: the same registers again, so that no lane is spread."""
    if width % LANES:
        return x[:, :1]
    return jnp.concatenate([x] * (width // LANES), axis=1)


def _attend_units(
    call: AttentionCall,
    refs: Refs,
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
        slopes = stacked(_row_slopes(refs, unit) for unit, _, _ in places)
        scores = scores + _repeated(slopes, scores.shape[1]) * distance
    scores = jnp.where(visible, scores, MASKED)

    # A row that has seen nothing yet adds up what it must not see, with the peak MASKED: the first key that
    # it does see fades all of it to zero.
    peak = stacked(refs.peak[unit] for unit, _, _ in places)
    new_peak = jnp.maximum(peak, jnp.max(scores, axis=1, keepdims=True))
    weights = jnp.exp(scores - _repeated(new_peak, scores.shape[1]))
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


def _tile(refs: Refs, slot: jax.Array, tile: Any, dtype: jnp.dtype) -> jax.Array:
    """A tile of a buffer ``[C, 128]`` as the products take it; narrow numbers go through float32."""
    x = refs.buffers[slot, tile]  # [C / group, group, 128]
    if x.dtype != dtype:
        x = x.astype(jnp.float32).astype(dtype)
    return x.reshape(-1, LANES)
