"""The TPU kernels in interpret mode, both orders of copies, races detected, against the float64 oracle."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tpu_batches
from covering import covering
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu
from ragged_batches import Setup, expected_output, make_batch
from tpu_batches import check, compiled, tpu_pages

from vllm_jax.errors import ConfigError
from vllm_jax.kernels import attention
from vllm_jax.kernels.tpu import blocks, copies, heads, kernel, layout, plan, write
from vllm_jax.kernels.tpu.layout import HeadUnits

SMALL = {"rows": 4, "pages_per_row": 6, "num_pages": 24, "tokens": 32}
DECODE = {**SMALL, "tokens": 4, "decode_only": True}
PAGE32 = {"rows": 4, "pages_per_row": 3, "num_pages": 12, "page": 32}

CASES = {
    "decode_mha_alibi_window": (Setup(4, 4, 64, window=40, **DECODE), [1, 0, 1, 1], [28, 0, 1, 70]),
    "decode_flat_gqa": (
        Setup(16, 4, 128, dtype="bfloat16", sinks=True, **{**DECODE, "rows": 3, "tokens": 3}),
        [1, 0, 1],
        [17, 0, 80],
    ),
    "mixed_gqa_window_below_page": (Setup(4, 2, 64, window=7, **SMALL), [1, 12, 1, 5], [90, 12, 33, 40]),
    "mixed_bytes_in_half_tiles": (
        Setup(4, 2, 64, kv_dtype="int8", k_scale=0.05, v_scale=0.04, **{**SMALL, "tokens": 48}),
        [11, 1, 0, 30],
        [50, 33, 0, 51],
    ),
}
ONE_MODE = {
    "mixed_flat_gqa_alibi": (Setup(4, 2, 128, **SMALL), [17, 1, 0, 9], [17, 80, 0, 60], "on_wait"),
    "mixed_flat_mha": (Setup(8, 8, 256, window=20, **SMALL), [9, 1, 1], [30, 40, 1], "eager"),
    "heads_of_80_and_many_units": (Setup(9, 9, 80, **SMALL), [3, 1], [3, 18], "eager"),
    "nothing": (Setup(4, 2, 64, window=7, **SMALL), [], [], "eager"),
    "nothing_to_decode": (Setup(4, 4, 64, **DECODE), [], [], "on_wait"),
    "one_token_at_most": (Setup(2, 2, 64, **{**SMALL, "tokens": 1}), [1], [17], "on_wait"),
}

FACTORS = {
    "head_dim": (64, 80, 96, 128, 256),
    "stored": ("float32", "bfloat16", "int8", "float8_e4m3fn"),
    "heads": ("mha", "gqa", "mqa"),
    "mode": ("on_wait", "eager"),
    "kind": ("mixed", "decode"),
    "alibi": (False, True),
    "window": (False, True),
    "soft_cap": (False, True),
    "sinks": (False, True),
}
HEADS = {"mha": (2, 2), "gqa": (4, 2), "mqa": (3, 1)}


def setup_of(row: tuple) -> Setup:
    """A row as a setup: small pages, larger ones where heads share keys."""
    head_dim, stored, heads, _, kind, alibi, window, soft_cap, sinks = row
    narrow = stored in ("int8", "float8_e4m3fn")
    page = 64 if heads == "mqa" else 16
    return Setup(
        *HEADS[heads],
        head_dim,
        page=page,
        window=21 if window else None,
        soft_cap=4.0 if soft_cap else None,
        alibi=alibi,
        sinks=sinks,
        dtype="float32" if stored in ("float32", "int8") else "bfloat16",
        kv_dtype=stored,
        k_scale=0.05 if narrow else None,
        v_scale=0.04 if narrow else None,
        given_scale=0.2 if soft_cap else None,
        decode_only=kind == "decode",
        tokens=2 if kind == "decode" else 12,
        rows=2,
        pages_per_row=64 // page,
        num_pages=8,
    )


def cost(row: tuple) -> float:
    """Kernels there are to trace and to compile, roughly."""
    return 2.0 if "mixed" in row else 1.0


@pytest.mark.parametrize(
    "row", covering(FACTORS, cost=cost, focus="mode"), ids=lambda row: "-".join(map(str, row[:5]))
)
def test_options_dtypes_and_heads(row):
    """Every choice in both orders of copies; as a program this file runs rows where any two choices meet."""
    setup = setup_of(row)
    lengths = ([1, 1], [39, 17]) if setup.decode_only else ([1, 10], [34, 41])
    q_tokens = 16 if setup.dtype == "bfloat16" else 8  # whole tiles: heads of whole tiles lie flat
    check(make_batch(setup, *lengths, seed=5), row[3], q_tokens, max(32, min(2 * setup.page, 64)))


@pytest.mark.parametrize("mode", ["on_wait", "eager"])
@pytest.mark.parametrize("case", CASES)
def test_both_orders_of_copies(case, mode):
    setup, q_lens, kv_lens = CASES[case]
    check(make_batch(setup, q_lens, kv_lens, seed=3), mode)


@pytest.mark.parametrize("case", ONE_MODE)
def test_more_shapes(case):
    setup, q_lens, kv_lens, mode = ONE_MODE[case]
    check(make_batch(setup, q_lens, kv_lens, seed=4), mode)


def test_more_batches_of_one_program():
    """Boundaries of pages, buffers and query blocks, on a program that is compiled already."""
    setup = CASES["mixed_gqa_window_below_page"][0]
    chosen = [
        ([32], [96]),
        ([1, 1, 1, 1], [1, 16, 17, 96]),
        ([8, 8, 16], [8, 40, 32]),
        ([2, 0, 1, 2], [2, 0, 1, 65]),
    ]
    for seed, (q_lens, kv_lens) in enumerate(chosen):
        check(make_batch(setup, q_lens, kv_lens, seed=seed), "eager")


@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_any_batch(data):
    setup = CASES["mixed_gqa_window_below_page"][0]
    q_lens, kv_lens, left = [], [], setup.tokens
    for _ in range(setup.rows):
        q_len = data.draw(st.integers(0, min(left, 20)))
        context = data.draw(st.integers(0, setup.capacity - q_len)) if q_len else 0
        q_lens.append(q_len)
        kv_lens.append(q_len + context)
        left -= q_len
    check(make_batch(setup, q_lens, kv_lens, seed=data.draw(st.integers(0, 1000))), "eager")


@pytest.mark.parametrize("mode", ["on_wait", "eager"])
def test_pages_that_left_the_window_are_not_read(mode):
    setup = CASES["mixed_gqa_window_below_page"][0]
    batch = make_batch(setup, [1, 12], [90, 60], seed=14)
    pages = np.array(batch.pages)
    for row, first_seen in ((0, 90 - 7), (1, 60 - 12 - 6)):
        pages[batch.page_table[row, : first_seen // setup.page]] = np.nan
        batch.page_table[row, : first_seen // setup.page] = 10**6  # reading there is an error
    batch.pages = jnp.asarray(pages)
    out, _ = compiled(setup, mode, 8, 32)(batch)
    np.testing.assert_allclose(out, expected_output(batch), rtol=1e-5, atol=1e-5)


def _window_one_too_wide(keys, limits, sliding_window):
    return (keys <= limits) & (keys > limits - sliding_window - 1)


def _next_head_slopes(refs, unit):
    return jnp.roll(refs.slopes[unit], 1, axis=0)


def _start_of_page(refs, page, group):
    return pltpu.make_async_copy(refs.written, refs.pages.at[page, :, 0], refs.sent)


BUGS = {
    "missing_wait": (copies, "_wait_copy", lambda copy: None, "decode_mha_alibi_window", "on_wait"),
    "buffer_filled_while_in_use": (copies, "other", lambda slot: slot, "decode_mha_alibi_window", "eager"),
    "wrong_page": (
        copies,
        "_page_number",
        lambda call, refs, pair, index: refs.table[refs.pairs.seq[pair] * call.pages_per_seq],
        "decode_mha_alibi_window",
        "eager",
    ),
    "window_one_too_wide": (kernel, "_visible", _window_one_too_wide, "decode_mha_alibi_window", "eager"),
    "slopes_of_the_next_head": (kernel, "_row_slopes", _next_head_slopes, "decode_mha_alibi_window", "eager"),
    "unused_places_not_cleared": (
        copies,
        "clear_values",
        lambda *_: None,
        "decode_mha_alibi_window",
        "on_wait",
    ),
    "token_written_elsewhere": (copies, "sent_group", _start_of_page, "decode_mha_alibi_window", "eager"),
    "query_on_the_lanes_of_the_next_head": (
        heads,
        "_own_lanes",
        lambda call, head, own=heads._own_lanes: own(call, (head + 1) % call.units.heads),
        "decode_flat_gqa",
        "eager",
    ),
    "chunk_written_one_place_off": (
        write,
        "row_shift",
        lambda group, shift: jax.lax.rem(2 * group - shift + 1, jnp.int32(2 * group)),
        "mixed_gqa_window_below_page",
        "eager",
    ),
    "half_tile_taken_for_a_whole_one": (
        write,
        "row_shift",
        lambda height, shift: jax.lax.rem(height - shift, jnp.int32(height)),
        "mixed_bytes_in_half_tiles",
        "eager",
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_found(bug, monkeypatch):
    """The checks above fail for each of these, so that they mean something where they pass."""
    module, name, broken, case, mode = BUGS[bug]
    setup, q_lens, kv_lens = CASES[case]
    batch = make_batch(setup, q_lens, kv_lens, seed=3)
    monkeypatch.setattr(module, name, broken)
    merge = write._merge  # under a new name: JAX 0.11 keeps what it traced of a kernel function
    monkeypatch.setattr(write, "_merge", lambda *refs: merge(*refs))
    monkeypatch.setattr(tpu_batches, "compiled", compiled.__wrapped__)
    with pytest.raises(AssertionError):
        check(batch, mode)


LAYOUTS = [(3, 64), (3, 80), (3, 96), (1, 64), (9, 80), (2, 256)]


class TestLayout:
    @pytest.mark.parametrize(("kv_heads", "head_dim"), LAYOUTS)
    def test_queries_meet_their_own_keys(self, kv_heads, head_dim):
        """Arranged queries times a packed token's window are the plain products; results come back whole."""
        rng = np.random.default_rng(kv_heads)
        q = rng.integers(-3, 4, (3, 2 * kv_heads, head_dim)).astype(np.float32)
        k, v = rng.integers(-3, 4, (2, 5, kv_heads, head_dim)).astype(np.float32)
        tokens = np.asarray(layout.pack_tokens(jnp.asarray(k), jnp.asarray(v), jnp.float32, None, None))
        tokens = tokens.reshape(5, -1)
        for rows, block in ((8, 1), (1, 2)):
            units = HeadUnits.with_rows(kv_heads, 2, head_dim, rows)
            arranged = np.asarray(layout.arrange_queries(jnp.asarray(q), units, block))
            result = []
            for unit in range(units.num_units):
                keys, values = (
                    tokens[:, w.first[unit] * 128 : (w.first[unit] + w.num_tiles) * 128]
                    for w in (units.keys, units.values)
                )
                result.append(arranged[:, unit] @ keys.T @ values)
            out = layout.collect_outputs(jnp.asarray(np.stack(result, 1)), units, block, 3)
            share = np.arange(2 * kv_heads) // 2
            expected = np.einsum("thd,chd,che->the", q, k[:, share], v[:, share])
            np.testing.assert_array_equal(np.asarray(out), expected)

    def test_memory(self):
        """Nothing but a row's tail is padded."""
        for kv_heads, head_dim, tiles in ((32, 64, 32), (1, 64, 1), (32, 80, 40), (8, 96, 12), (3, 80, 4)):
            assert layout.pages_shape(7, 16, kv_heads, head_dim) == (7, tiles, 16, 128)

    def test_rows_of_the_mixed_plan(self):
        """The pairs cover each (token, visible key) of the prefilling rows, and no token twice."""
        setup = CASES["mixed_gqa_window_below_page"][0]
        metadata = make_batch(setup, [1, 12, 9, 5], [90, 12, 33, 40], seed=0).metadata()
        pairs = plan.prefill_pairs(metadata, 32, 8, None)
        assert pairs.block.shape == (4,)
        tokens = []
        for step in range(4):
            for pair in range(int(pairs.first[step]), int(pairs.first[step + 1])):
                for token in range(int(pairs.first_token[pair]), int(pairs.end_token[pair])):
                    tokens.append((step * 8 + token, int(pairs.seq[pair]), int(pairs.position[pair]) + token))
                assert pairs.end[pair] == tokens[-1][2] + 1
        rows = np.repeat([1, 2, 3], [12, 9, 5])
        positions = np.concatenate([np.arange(12), np.arange(24, 33), np.arange(35, 40)])
        assert tokens == list(zip(range(1, 27), rows, positions, strict=True))


class TestRefusals:
    @pytest.mark.parametrize(
        ("sizes", "text"),
        [
            ((4, 2, 72, 16, jnp.bfloat16), "head dim 72"),
            ((4, 2, 64, 48, jnp.bfloat16), "--block-size 48"),
            ((4, 2, 64, 16, jnp.float16), "float16"),
            ((4, 3, 64, 16, jnp.bfloat16), "no multiple"),
        ],
    )
    def test_combinations(self, sizes, text):
        with pytest.raises(ConfigError, match=text):
            attention.get_implementation("tpu").check(*sizes)

    def test_other_devices(self):
        with pytest.raises(ConfigError, match="'tpu' runs on tpu, but the device is a cpu"):
            attention.implementation_for("cpu", "tpu")
        with pytest.raises(ConfigError, match="needs a TPU"):
            blocks.current_chip()

    def test_page_of_another_layout(self):
        setup, q_lens, kv_lens, _ = ONE_MODE["mixed_flat_gqa_alibi"]
        batch = make_batch(setup, q_lens, kv_lens, seed=0)
        pages = jnp.asarray(tpu_pages(np.asarray(batch.pages), setup))
        for wrong in (batch.pages, pages[:, :2]):
            with pytest.raises(ValueError, match="kv_pages_shape"):
                attention.paged_attention(
                    batch.q, batch.k, batch.v, wrong, batch.metadata(), scale=1.0, implementation="tpu"
                )

    def test_block_that_cannot_fit(self):
        units = HeadUnits.with_rows(64, 1, 256, 8)
        with pytest.raises(ConfigError, match="smaller --block-size"):
            blocks.choose(blocks.CHIPS["v4"], units, 256, jnp.float32, jnp.float32, 1, 16)


@pytest.mark.parametrize("chip", blocks.CHIPS)
def test_block_sizes_stay_in_their_budget(chip):
    limits = blocks.CHIPS[chip]
    for kv_heads, group, head_dim in ((32, 1, 128), (8, 4, 128), (1, 71, 64), (32, 1, 80), (16, 1, 256)):
        for rows, tokens in ((8, 1), (1, 2048)):
            units = HeadUnits.with_rows(kv_heads, group, head_dim, rows)
            sizes = blocks.choose(limits, units, 32, jnp.bfloat16, jnp.bfloat16, tokens, 128)
            assert sizes.kv_tokens % 32 == 0 and sizes.kv_tokens >= 32
            assert (sizes.q_tokens == 1) == (tokens == 1)
            assert blocks.vmem_bytes(units, sizes, jnp.bfloat16, jnp.bfloat16) <= sizes.vmem_bytes
            assert sizes.vmem_bytes < limits.vmem_bytes


def main() -> None:
    """Any two choices of head dim, dtype, heads, order, kind and options: about 25 rows, a minute or two."""
    rows = covering(FACTORS, cost=cost)
    for index, row in enumerate(rows, 1):
        test_options_dtypes_and_heads(row)
        print(f"{index} of {len(rows)}: {row}", flush=True)


if __name__ == "__main__":
    main()
