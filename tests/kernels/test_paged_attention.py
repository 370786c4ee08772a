"""The implementations of paged attention against a float64 oracle, and against each other."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ragged_batches import Batch, Setup, expected_output, expected_pages, make_batch, random_lengths

from vllm_jax.errors import ConfigError
from vllm_jax.kernels import attention, xla
from vllm_jax.kernels.metadata import AttentionMetadata

SETUPS = {
    "mha_alibi": Setup(6, 6, 64),
    "mha_alibi_decode": Setup(6, 6, 64, decode_only=True, tokens=6),
    "gqa_window_below_page": Setup(4, 2, 80, window=7),
    "gqa_window_below_page_decode": Setup(4, 2, 80, window=7, decode_only=True, tokens=6),
    "mqa_page32_window_and_cap": Setup(
        4, 1, 96, page=32, pages_per_row=9, window=40, soft_cap=3.0, alibi=False
    ),
    "head128_cap_alibi": Setup(2, 2, 128, soft_cap=5.0),
    "head256_plain": Setup(2, 1, 256, alibi=False),
    "bfloat16_mha_alibi": Setup(3, 3, 64, dtype="bfloat16"),
    "bfloat16_gqa_window_decode": Setup(4, 2, 128, dtype="bfloat16", window=33, decode_only=True, tokens=6),
    "sinks_window": Setup(4, 2, 64, sinks=True, window=21, alibi=False),
    "sinks_alibi_decode": Setup(4, 4, 64, sinks=True, decode_only=True, tokens=6),
    "int8_pages": Setup(4, 2, 64, kv_dtype="int8", k_scale=0.05, v_scale=0.04),
    "fp8_pages": Setup(4, 2, 64, kv_dtype="float8_e4m3fn"),
    "fp8_pages_with_scales_decode": Setup(
        4, 2, 64, kv_dtype="float8_e4m3fn", k_scale=0.003, v_scale=0.1, decode_only=True, tokens=6
    ),
    "bfloat16_pages_of_a_float32_model": Setup(2, 2, 64, kv_dtype="bfloat16"),
    "float32_pages_of_a_bfloat16_model": Setup(2, 2, 64, dtype="bfloat16", kv_dtype="float32"),
    "one_token_at_most": Setup(2, 2, 64, tokens=1, rows=3),
}

LENGTHS = {
    "nothing": ([], []),
    "first_token_of_all": ([1], [1]),
    "one_decode": ([1], [40]),
    "page_just_full": ([1, 16], [32, 16]),
    "page_just_begun": ([1, 17], [33, 17]),
    "empty_row_between": ([1, 0, 5], [20, 0, 5]),
    "mixed": ([1, 1, 37, 5, 1], [17, 128, 37, 60, 129]),
    "chunk_of_a_long_context": ([70], [300 - 12]),
    "all_tokens_used": ([1, 1, 31, 32, 31], [9, 200, 31, 64, 300 - 12]),
}


@cache
def compiled(setup: Setup, implementation: str):
    """``batch -> (out, pages)`` for all batches of one setup."""

    @partial(jax.jit, donate_argnums=3)
    def attend(q, k, v, pages, metadata):
        return attention.paged_attention(
            q,
            k,
            v,
            pages,
            metadata,
            scale=setup.scale,
            alibi_slopes=None if setup.slopes is None else jnp.asarray(setup.slopes),
            sliding_window=setup.window,
            soft_cap=setup.soft_cap,
            sinks=None if setup.sinks is False else jnp.asarray(setup.sink_scores),
            k_scale=setup.k_scale,
            v_scale=setup.v_scale,
            implementation=implementation,
        )

    def run(batch: Batch):
        pages = jnp.array(batch.pages)
        out, pages = attend(batch.q, batch.k, batch.v, pages, batch.metadata(implementation))
        assert out.dtype == setup.dtype
        return np.asarray(out, np.float64), np.asarray(pages)

    return run


def check(batch: Batch, implementation: str) -> None:
    out, pages = compiled(batch.setup, implementation)(batch)
    assert np.isfinite(out).all(), "padding tokens must stay finite"
    tolerance = (
        {"rtol": 1e-2, "atol": 1e-2} if batch.setup.dtype == "bfloat16" else {"rtol": 1e-5, "atol": 1e-5}
    )
    np.testing.assert_allclose(out, expected_output(batch), **tolerance)
    # equal_nan does not look at the payload of a NaN; nothing relies on it either.
    np.testing.assert_array_equal(pages, expected_pages(batch))


@pytest.mark.parametrize("implementation", ["reference", "xla"])
@pytest.mark.parametrize("name", SETUPS)
def test_random_batches(name, implementation):
    setup = SETUPS[name]
    for seed in range(4):
        lengths = random_lengths(setup, np.random.default_rng(seed))
        print(f"{name} seed {seed}: q_lens, kv_lens = {lengths}")
        check(make_batch(setup, *lengths, seed=seed), implementation)


@pytest.mark.parametrize("implementation", ["reference", "xla"])
@pytest.mark.parametrize("case", LENGTHS)
def test_chosen_batches(case, implementation):
    check(make_batch(SETUPS["mha_alibi"], *LENGTHS[case], seed=11), implementation)


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_decode_with_empty_rows(implementation):
    """With ``decode_only`` token t stays row t's, whatever rows are empty."""
    setup = SETUPS["mha_alibi_decode"]
    check(make_batch(setup, [1, 0, 1, 0, 0, 1], [20, 0, 1, 0, 0, 130], seed=12), implementation)
    check(make_batch(setup, [], [], seed=13), implementation)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_xla_agrees_with_the_reference(data):
    """On whatever batch hypothesis can think of; both are compiled once."""
    setup = SETUPS["gqa_window_below_page"]
    q_lens, kv_lens, left = [], [], setup.tokens
    for _ in range(setup.rows):
        q_len = data.draw(st.integers(0, min(left, 40)))
        context = data.draw(st.integers(0, setup.capacity - q_len)) if q_len else 0
        q_lens.append(q_len)
        kv_lens.append(q_len + context)
        left -= q_len
    batch = make_batch(setup, q_lens, kv_lens, seed=data.draw(st.integers(0, 1000)))
    out, pages = compiled(setup, "xla")(batch)
    expected, expected_pages = compiled(setup, "reference")(batch)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(pages, expected_pages)


def test_pages_that_left_the_window_may_be_anything():
    """A scheduler may free them: neither their keys nor their values reach the result."""
    setup = SETUPS["gqa_window_below_page"]
    batch = make_batch(setup, [1, 20], [200, 150], seed=14)
    pages = np.array(batch.pages)
    for row, first_seen in ((0, 200 - 7), (1, 150 - 20 - 6)):
        pages[batch.page_table[row, : first_seen // setup.page]] = np.nan
    batch.pages = jnp.asarray(pages)
    for implementation in ("reference", "xla"):
        out, _ = compiled(setup, implementation)(batch)
        np.testing.assert_allclose(out, expected_output(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
def test_the_cache_is_never_copied(dtype):
    """The donated step writes in place and converts nothing of the cache's size."""
    setup = Setup(4, 4, 64, kv_dtype=dtype, num_pages=4096)
    batch = make_batch(setup, [1, 30], [100, 30], seed=15)
    slopes = jnp.asarray(setup.slopes)

    def step(q, k, v, pages, metadata):
        return attention.paged_attention(
            q, k, v, pages, metadata, scale=setup.scale, alibi_slopes=slopes, implementation="xla"
        )

    lowered = jax.jit(step, donate_argnums=3).lower(batch.q, batch.k, batch.v, batch.pages, batch.metadata())
    memory = lowered.compile().memory_analysis()
    assert memory.alias_size_in_bytes >= batch.pages.nbytes, "the pages are not updated in place"
    assert memory.temp_size_in_bytes < batch.pages.nbytes / 4


def test_work_does_not_grow_with_the_page_table():
    """Temporary memory is that of a chunk, however long a context may become."""
    sizes = []
    for pages_per_row in (20, 200):
        setup = Setup(4, 4, 64, pages_per_row=pages_per_row, decode_only=True, tokens=6)
        batch = make_batch(setup, [1, 1], [100, 30], seed=16)
        attend = partial(attention.paged_attention, scale=1.0, implementation="xla")
        arguments = (batch.q, batch.k, batch.v, batch.pages, batch.metadata())
        sizes.append(jax.jit(attend).lower(*arguments).compile().memory_analysis().temp_size_in_bytes)
    assert sizes[1] <= sizes[0] * 1.1


@pytest.mark.parametrize("decode_only", [False, True])
def test_positions_of_flat_tokens(decode_only):
    q_lens, kv_lens = ([1, 0, 1, 1], [5, 0, 9, 1]) if decode_only else ([1, 0, 4, 2], [5, 0, 9, 2])
    cu_q_lens = jnp.asarray(np.concatenate([[0], np.cumsum(q_lens)]), jnp.int32)
    metadata = AttentionMetadata(jnp.zeros((4, 1), jnp.int32), jnp.asarray(kv_lens), cu_q_lens, decode_only)
    if decode_only:
        assert metadata.sequence_of_token(4).tolist() == [0, 4, 2, 3]
        assert metadata.positions(4).tolist() == [4, 0, 8, 0]
    else:
        assert metadata.sequence_of_token(9).tolist() == [0, 2, 2, 2, 2, 3, 3, 4, 4]
        assert metadata.positions(9).tolist() == [4, 5, 6, 7, 8, 0, 1, 0, 0]


class TestDispatch:
    """What the dispatch refuses, before anything is computed."""

    batch = make_batch(SETUPS["mha_alibi"], [1], [1], seed=0)

    def call(self, **changes):
        arguments = {
            "q": self.batch.q,
            "k": self.batch.k,
            "v": self.batch.v,
            "kv_pages": self.batch.pages,
            "metadata": self.batch.metadata(),
            "scale": 1.0,
            "implementation": "xla",
        }
        return jax.eval_shape(partial(attention.paged_attention, **{**arguments, **changes}))

    def test_names(self):
        assert attention.implementation_for("cpu", "reference") == "reference"
        with pytest.raises(ConfigError, match="'metal'"):
            attention.implementation_for("metal")
        with pytest.raises(ConfigError, match=r"'flash'.*reference, xla"):
            attention.implementation_for("cpu", "flash")
        with pytest.raises(ConfigError, match=r"'flash'.*reference, xla"):
            self.call(implementation="flash")
        with pytest.raises(ConfigError, match="'flash'"):
            attention.kv_pages_shape(1, 1, 1, 1, implementation="flash")

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"v": jnp.zeros((96, 3, 64))}, "do not fit q"),
            ({"k": jnp.zeros((96, 4, 64)), "v": jnp.zeros((96, 4, 64))}, "no multiple of 4 KV heads"),
            ({"kv_pages": jnp.zeros((150, 2, 6, 16, 64), jnp.bfloat16)}, "kv_pages_dtype"),
            ({"kv_pages": jnp.zeros((150, 2, 3, 16, 64))}, "kv_pages_shape"),
            ({"alibi_slopes": jnp.zeros(5)}, "alibi_slopes"),
            ({"sliding_window": 0}, "sliding_window"),
            ({"sinks": jnp.zeros(5)}, "sinks"),
            ({"k_scale": 0.0}, "k_scale must be above 0"),
            ({"kv_pages": jnp.zeros((150, 2, 6, 16, 64), jnp.int8), "k_scale": 1.0}, "int8 pages need"),
            ({"kv_pages": jnp.zeros((150, 2, 6, 16, 64), jnp.int32)}, "kv_pages_dtype"),
        ],
    )
    def test_shapes(self, changes, text):
        with pytest.raises(ValueError, match=text):
            self.call(**changes)

    def test_metadata(self):
        rows = self.batch.metadata()
        with pytest.raises(ValueError, match="disagree"):
            self.call(metadata=AttentionMetadata(rows.page_table, rows.kv_lens, rows.kv_lens))
        with pytest.raises(ValueError, match="decode_only"):
            self.call(metadata=AttentionMetadata(rows.page_table, rows.kv_lens, rows.cu_q_lens, True))


def test_pages_shape_is_that_of_the_docs():
    assert attention.kv_pages_shape(7, 16, 3, 64) == (7, 2, 3, 16, 64)
    assert attention.kv_pages_dtype(jnp.dtype(jnp.bfloat16)) == jnp.uint16
    assert attention.kv_pages_dtype(jnp.dtype(jnp.float32)) == jnp.float32
    assert attention.kv_pages_dtype(jnp.dtype(jnp.float8_e4m3fn)) == jnp.uint8
    with pytest.raises(ConfigError, match="cannot be stored as float16"):
        attention.kv_pages_dtype(jnp.dtype(jnp.float16))
    assert xla.TILE < SETUPS["mha_alibi"].tokens < xla.CHUNK_TOKENS, "the setups must cross tiles and chunks"
    assert SETUPS["mha_alibi"].capacity > 2 * xla.CHUNK_TOKENS
