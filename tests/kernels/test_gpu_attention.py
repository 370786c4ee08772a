"""The GPU kernels in JAX's interpreter against the float64 oracle, and how their work is cut."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ragged_batches import Batch, Setup, expected_output, expected_pages, make_batch

from vllm_jax.errors import ConfigError
from vllm_jax.kernels import attention
from vllm_jax.kernels.gpu import attention as gpu
from vllm_jax.kernels.gpu import blocks, decode, prefill
from vllm_jax.kernels.metadata import AttentionMetadata
from vllm_jax.kernels.tiles import prefill_tiles

Small = partial(Setup, tokens=40, rows=4, pages_per_row=8, num_pages=40)

SETUPS = {
    "mha_alibi": Small(3, 3, 64),
    "mha_decode": Small(3, 3, 64, tokens=4, decode_only=True, alibi=False),
    "gqa_80_window_below_page_sinks": Small(6, 2, 80, window=7, sinks=True),
    "gqa_96_window_cap_decode": Small(4, 2, 96, window=40, soft_cap=3.0, tokens=4, decode_only=True),
    "mqa_128_page32_cap_sinks_alibi": Small(
        5, 1, 128, page=32, pages_per_row=4, soft_cap=5.0, sinks=True, num_pages=16
    ),
    "plain_256_page128": Small(2, 1, 256, page=128, pages_per_row=2, num_pages=8, alibi=False),
    "bfloat16_alibi": Small(4, 2, 64, dtype="bfloat16"),
    "bfloat16_queries_float32_pages": Small(2, 1, 64, dtype="bfloat16", kv_dtype="float32", window=20),
    "int8_pages": Small(2, 1, 64, kv_dtype="int8", k_scale=0.04, v_scale=0.05),
    "float8_pages_sinks_decode": Small(
        2, 1, 64, dtype="bfloat16", kv_dtype="float8_e4m3fn", sinks=True, tokens=4, decode_only=True
    ),
}
LENGTHS = {
    False: ([1, 0, 30, 5], [70, 0, 35, 128]),
    True: ([1, 0, 1, 1], [1, 0, 97, 128]),
}
"""By decode_only: contexts of one and of several parts, an empty row, a partial page, a continued chunk."""


@pytest.fixture(autouse=True)
def _short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the short contexts here are split as long ones are."""
    monkeypatch.setattr(blocks, "MIN_CHUNK", 32)


def traced(setup: Setup):
    """The operation for all batches of one setup; traces the modules as they are now."""

    def attend(q, k, v, pages, metadata):
        return gpu.paged_attention(
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
            interpret=True,
        )

    # The interpreter's programs are large and run once or twice: compiling them fast is what counts.
    fast = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(attend, compiler_options=fast)


healthy = cache(traced)


def run(batch: Batch, attend) -> tuple[np.ndarray, np.ndarray]:
    """Output in float64, and the pages' bits."""
    setup = batch.setup
    pages = batch.pages.view(attention.kv_pages_dtype(jnp.dtype(setup.stored_dtype), implementation="gpu"))
    out, pages = attend(batch.q, batch.k, batch.v, pages, batch.metadata("gpu"))
    assert out.dtype == setup.dtype
    return np.asarray(out, np.float64), np.asarray(pages.view(batch.pages.dtype))


def check(batch: Batch, attend=None) -> None:
    out, pages = run(batch, attend or healthy(batch.setup))
    assert np.isfinite(out).all(), "padding tokens must stay finite"
    tolerance = 2e-2 if batch.setup.dtype == "bfloat16" else 1e-5
    np.testing.assert_allclose(out, expected_output(batch), rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(pages, expected_pages(batch))


@pytest.mark.parametrize("name", SETUPS)
def test_against_the_oracle(name):
    setup = SETUPS[name]
    lengths = LENGTHS[setup.decode_only]
    check(make_batch(setup, *lengths, seed=1))


@pytest.mark.parametrize(
    ("q_lens", "kv_lens"),
    [([], []), ([1], [1]), ([1, 16], [32, 16]), ([1, 2, 1, 17], [33, 128, 64, 33]), ([40], [128])],
    ids=["nothing", "first_token", "full_pages", "page_just_begun", "chunk_of_a_long_context"],
)
def test_chosen_lengths(q_lens, kv_lens):
    check(make_batch(SETUPS["mha_alibi"], q_lens, kv_lens, seed=2))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_lengths(data):
    """Whatever batch hypothesis can think of, rows in any order; compiled once."""
    setup = SETUPS["gqa_80_window_below_page_sinks"]
    q_lens, kv_lens, left = [], [], setup.tokens
    for _ in range(setup.rows):
        q_len = data.draw(st.one_of(st.integers(0, min(left, 1)), st.integers(0, left)))
        context = data.draw(st.integers(0, setup.capacity - q_len)) if q_len else 0
        q_lens.append(q_len)
        kv_lens.append(q_len + context)
        left -= q_len
    check(make_batch(setup, q_lens, kv_lens, seed=data.draw(st.integers(0, 1000))))


def test_pages_that_left_the_window_may_be_anything():
    setup = SETUPS["gqa_80_window_below_page_sinks"]
    batch = make_batch(setup, [1, 20], [100, 120], seed=3)
    pages, table = np.array(batch.pages), np.array(batch.page_table)
    for row, first_seen in ((0, 100 - 7), (1, 120 - 20 - 6)):
        pages[table[row, : first_seen // setup.page]] = np.nan
        table[row, : first_seen // setup.page] = 10**6  # not even the page's number is looked up
    batch.pages, batch.page_table = jnp.asarray(pages), table
    out, _ = run(batch, healthy(setup))
    np.testing.assert_allclose(out, expected_output(batch), rtol=1e-5, atol=1e-5)


class TestPlantedBugs:
    """Each is one a kernel could really have; the comparison with the oracle must see it."""

    def fails(self, setup: Setup) -> None:
        with pytest.raises(AssertionError):
            check(make_batch(setup, *LENGTHS[setup.decode_only], seed=1), traced(setup))

    @pytest.mark.parametrize("name", ["gqa_80_window_below_page_sinks", "gqa_96_window_cap_decode"])
    @pytest.mark.parametrize("off_by", [-1, 1])
    def test_window_off_by_one(self, monkeypatch, name, off_by):
        def scoring(*, window, **others):
            return original(window=window + off_by, **others)

        original = gpu.Scoring
        monkeypatch.setattr(gpu, "Scoring", scoring)
        self.fails(SETUPS[name])

    @pytest.mark.parametrize("module", [decode, prefill])
    def test_wrong_page(self, monkeypatch, module):
        """The block after the first is read from the place of the first."""
        original = module.read_block
        monkeypatch.setattr(
            module,
            "read_block",
            lambda rows, table, seq, key, *rest, **sizes: original(rows, table, seq, key * 0, *rest, **sizes),
        )
        self.fails(SETUPS["bfloat16_queries_float32_pages"])

    @pytest.mark.parametrize("module", [decode, prefill])
    def test_slope_of_another_head(self, monkeypatch, module):
        original = module.attend_block

        def attend_block(state, q, k, v, distance, visible, slopes, scoring):
            return original(state, q, k, v, distance, visible, jnp.roll(slopes, 1), scoring)

        monkeypatch.setattr(module, "attend_block", attend_block)
        self.fails(SETUPS["bfloat16_alibi"])

    def test_part_that_is_not_combined(self, monkeypatch):
        original = decode._combine
        monkeypatch.setattr(
            decode, "_combine", lambda *refs, splits, **rest: original(*refs, splits=1, **rest)
        )
        self.fails(SETUPS["mha_decode"])

    @pytest.mark.parametrize("module", [decode, prefill])
    def test_unused_slots_that_are_read(self, monkeypatch, module):
        """They hold NaN: 0 * NaN reaches the sum if values are not masked."""
        original = module.read_block
        monkeypatch.setattr(
            module,
            "read_block",
            lambda *refs, **sizes: original(*refs[:4], None, **sizes),
        )
        self.fails(SETUPS["mha_alibi"])

    def test_padding_that_is_written(self, monkeypatch):
        monkeypatch.setattr(AttentionMetadata, "sequence_of_token", lambda self, n: jnp.zeros(n, jnp.int32))
        self.fails(SETUPS["mha_alibi"])


class TestCuts:
    """How much work there is, without running it."""

    @pytest.mark.parametrize(
        ("programs", "capacity", "splits"),
        [(8, 32768, 64), (32, 32768, 32), (8 * 256, 1024, 1), (8 * 256, 32768, 4), (8, 300, 2), (1, 64, 1)],
    )
    def test_splits(self, monkeypatch, programs, capacity, splits):
        monkeypatch.setattr(blocks, "MIN_CHUNK", 256)
        assert blocks.decode_splits(programs, capacity) == splits

    @pytest.mark.parametrize("window", [None, 50])
    @pytest.mark.parametrize("kv_lens", [[1, 0, 0], [32768, 5, 700], [33, 32, 31], [32768] * 3])
    def test_parts_cover_every_context(self, monkeypatch, kv_lens, window):
        monkeypatch.setattr(blocks, "MIN_CHUNK", 256)
        splits, multiple = 16, 64
        [chunk] = decode.chunk_length(jnp.asarray(kv_lens), window, splits, 8, multiple).tolist()
        assert chunk % multiple == 0
        for kv_len in kv_lens:
            first = 0 if window is None else max(kv_len - window, 0) // multiple * multiple
            assert first + splits * chunk >= kv_len

    def test_a_long_row_is_cut_and_short_ones_are_not(self):
        [chunk] = decode.chunk_length(jnp.asarray([32768, 900, 500, 3]), None, 32, 8, 64).tolist()
        assert chunk == 1024

    def test_sums_beyond_int32(self):
        [chunk] = decode.chunk_length(jnp.full(256, 131072), None, 16, 64, 64).tolist()
        assert chunk >= 131072, "with blocks enough for the card nothing needs to be split"

    @pytest.mark.parametrize("group", [1, 3, 7, 32, 71, 128])
    @pytest.mark.parametrize("features", [64, 128, 256])
    @pytest.mark.parametrize("exact", [False, True])
    def test_blocks_hold_what_they_must(self, group, features, exact):
        for cut in (
            blocks.decode_blocks(group, features, exact=exact),
            blocks.prefill_blocks(group, features, 512, exact=exact),
            blocks.prefill_blocks(group, features, 2, exact=exact),
        ):
            assert cut.rows >= 16 and cut.keys >= 16
            assert {blocks.power_of_two(n) for n in (cut.rows, cut.keys)} == {cut.rows, cut.keys}
            assert 1 <= cut.heads <= min(group, cut.rows) and cut.tokens >= 1
            bytes_in_flight = (cut.rows + 2 * cut.keys * cut.num_stages) * features * (4 if exact else 2)
            assert bytes_in_flight <= 166912, "an A100's shared memory for a block"

    def test_tiles_of_a_mixed_batch(self):
        """Rows of one token belong to the decode kernel; a tile never holds two sequences."""
        q_lens, kv_lens = np.array([1, 5, 0, 9, 1]), np.array([30, 5, 0, 20, 1])
        metadata = AttentionMetadata(
            jnp.zeros((5, 1), jnp.int32),
            jnp.asarray(kv_lens),
            jnp.asarray(np.concatenate([[0], np.cumsum(q_lens)]), jnp.int32),
        )
        tiles = prefill_tiles(metadata, 24, 4)
        used = np.asarray(tiles.size) > 0
        found = np.stack([np.asarray(field)[used] for field in tiles], axis=1).tolist()
        assert found == [[1, 1, 0, 4], [1, 5, 4, 1], [3, 6, 11, 4], [3, 10, 15, 4], [3, 14, 19, 1]]


class TestRefusals:
    """What the kernels cannot do is named before anything runs."""

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"page_size": 8}, "--block-size of 16 to 256, not 8"),
            ({"page_size": 512}, "not 512"),
            ({"head_dim": 72}, "multiple of 16 up to 256, not 72"),
            ({"head_dim": 512}, "not 512"),
            ({"kv_dtype": jnp.dtype(jnp.float16)}, "float16"),
        ],
    )
    def test_combinations(self, changes, text):
        sizes = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 64, "page_size": 16}
        with pytest.raises(ConfigError, match=text):
            gpu.check_combination(**{**sizes, "kv_dtype": jnp.dtype(jnp.bfloat16), **changes})

    def test_float8_on_older_cards(self, monkeypatch):
        """Their compiler does not refuse it: it ends the process."""
        sizes = (4, 2, 64, 16, jnp.dtype(jnp.float8_e4m3fn))
        for capability in (None, 8.9, 9.0):
            monkeypatch.setattr(gpu, "_compute_capability", lambda found=capability: found)
            gpu.check_combination(*sizes)
        monkeypatch.setattr(gpu, "_compute_capability", lambda: 8.0)
        with pytest.raises(ConfigError, match=r"8\.9 and above.*has 8\.0"):
            gpu.check_combination(*sizes)

    @pytest.mark.parametrize(
        ("dtype", "pages", "error", "text"),
        [
            ("float16", ((4, 2, 2, 16, 64), "bfloat16"), ConfigError, "not in float16"),
            ("float32", ((4, 2, 2, 16, 64), "uint16"), ValueError, "kv_pages_dtype"),
            ("float32", ((4, 2, 1, 16, 64), "float32"), ValueError, "kv_pages_shape"),
            ("bfloat16", ((2**19, 2, 2, 16, 64), "float8_e4m3fn"), ConfigError, "2.0 GiB a layer"),
        ],
    )
    def test_arrays(self, dtype, pages, error, text):
        q = jax.ShapeDtypeStruct((4, 4, 64), dtype)
        k = jax.ShapeDtypeStruct((4, 2, 64), dtype)
        with pytest.raises(error, match=text):
            gpu.check_arrays(q, k, jax.ShapeDtypeStruct(*pages))
