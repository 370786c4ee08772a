"""The native kernel of paged attention against a float64 oracle, in all instruction sets this machine has."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ragged_batches import Batch, Setup, expected_output, expected_pages, make_batch, random_lengths
from test_paged_attention import LENGTHS, SETUPS

from vllm_jax.errors import ConfigError
from vllm_jax.kernels import attention, xla
from vllm_jax.kernels.cpu import attention as cpu
from vllm_jax.kernels.cpu import library
from vllm_jax.layers.rotary import apply_rotary

pytestmark = pytest.mark.skipif(not cpu.available(), reason=f"native kernels: {library.describe()}")

UGLY = {
    "head_of_no_whole_vector": Setup(4, 2, 24, page=16),
    "odd_head": Setup(3, 1, 19, page=32, pages_per_row=9, window=50),
    "odd_page": Setup(4, 2, 64, page=21, pages_per_row=15),
    "odd_page_and_head_bfloat16": Setup(2, 2, 36, page=18, pages_per_row=17, dtype="bfloat16", window=37),
    "page_of_one": Setup(2, 1, 32, page=1, pages_per_row=120, num_pages=400),
    "page256": Setup(4, 2, 64, page=256, pages_per_row=3, num_pages=18),
    "many_queries_a_head_decode": Setup(40, 1, 64, decode_only=True, tokens=6),
    "many_queries_a_head": Setup(33, 1, 32, soft_cap=20.0),
    "head256_decode": Setup(3, 1, 256, decode_only=True, tokens=6, alibi=False),
    "int8_odd_head_window_decode": Setup(
        6, 2, 20, kv_dtype="int8", k_scale=0.05, v_scale=0.04, window=19, decode_only=True, tokens=6
    ),
    "fp8_sinks_of_a_bfloat16_model": Setup(4, 2, 80, dtype="bfloat16", kv_dtype="float8_e4m3fn", sinks=True),
    "scaled_bfloat16_pages": Setup(4, 2, 64, kv_dtype="bfloat16", k_scale=0.37, v_scale=2.5),
    "scaled_float32_pages": Setup(4, 2, 64, k_scale=0.37, v_scale=2.5),
    "everything": Setup(8, 2, 96, window=61, soft_cap=4.0, sinks=True, kv_dtype="bfloat16", page=32),
}
ALL = {**SETUPS, **UGLY}


def isas() -> list[str]:
    """Those that this machine runs."""
    best = library.library().isa or ""
    return [isa for isa in cpu.ISAS if isa == "portable" or best.startswith(("AVX-512", isa.upper()))]


@cache
def compiled(setup: Setup, isa: str | None = None):
    """``batch -> (out, pages)`` for all batches of one setup."""

    @partial(jax.jit, donate_argnums=3)
    def attend(q, k, v, pages, metadata):
        return cpu.paged_attention(
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
            isa=isa,
        )

    def run(batch: Batch):
        out, pages = attend(batch.q, batch.k, batch.v, jnp.array(batch.pages), batch.metadata("cpu"))
        assert out.dtype == setup.dtype
        return np.asarray(out, np.float64), np.asarray(pages)

    return run


def check(batch: Batch, isa: str | None = None) -> None:
    out, pages = compiled(batch.setup, isa)(batch)
    assert np.isfinite(out).all(), "padding tokens must stay finite"
    tolerance = 1e-2 if batch.setup.dtype == "bfloat16" else 1e-5
    np.testing.assert_allclose(out, expected_output(batch), rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(pages, expected_pages(batch))


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("name", ALL)
def test_random_batches(name, isa):
    setup = ALL[name]
    for seed in range(4):
        lengths = random_lengths(setup, np.random.default_rng(seed))
        print(f"{name} seed {seed}: q_lens, kv_lens = {lengths}")
        check(make_batch(setup, *lengths, seed=seed), isa)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("case", LENGTHS)
def test_chosen_batches(case, isa):
    check(make_batch(SETUPS["mha_alibi"], *LENGTHS[case], seed=11), isa)


def test_decode_with_empty_rows():
    """With ``decode_only`` token t stays row t's, whatever rows are empty."""
    setup = SETUPS["mha_alibi_decode"]
    check(make_batch(setup, [1, 0, 1, 0, 0, 1], [20, 0, 1, 0, 0, 130], seed=12))
    check(make_batch(setup, [], [], seed=13))


@pytest.mark.parametrize(
    "setup",
    [
        Setup(2, 1, 64, pages_per_row=200, num_pages=260, rows=3, tokens=3, decode_only=True),
        Setup(2, 1, 64, pages_per_row=200, num_pages=260, rows=3, tokens=3, decode_only=True, sinks=True),
        Setup(3, 1, 32, page=21, pages_per_row=150, num_pages=260, rows=3, tokens=40, window=2000),
    ],
)
def test_contexts_that_are_cut_into_parts(setup):
    """A long context of one KV head is shared by the threads and put together again."""
    check(make_batch(setup, [1, 1], [3100, 900], seed=17))
    check(make_batch(setup, [1], [2971], seed=18))


@pytest.mark.parametrize("name", ["gqa_window_below_page", "odd_page", "gqa_window_below_page_decode"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_batch(name, data):
    """On whatever batch hypothesis can think of."""
    setup = replace(ALL[name], num_pages=150)
    q_lens, kv_lens, left, pages = [], [], setup.tokens, setup.num_pages
    for _ in range(setup.rows):
        q_len = data.draw(st.integers(0, 1 if setup.decode_only else min(left, 40)))
        room = min(setup.capacity, pages * setup.page) - q_len
        context = data.draw(st.integers(0, room)) if q_len and room >= 0 else 0
        q_lens.append(q_len if room >= 0 else 0)
        kv_lens.append(q_lens[-1] + context)
        left -= q_lens[-1]
        pages -= -(-kv_lens[-1] // setup.page)
    check(make_batch(setup, q_lens, kv_lens, seed=data.draw(st.integers(0, 1000))))


def check_that_rows_are_independent(batch: Batch) -> None:
    """Each row alone has the same bits, and so have all of them again and again."""
    out, _ = compiled(batch.setup)(batch)
    for _ in range(10):
        np.testing.assert_array_equal(compiled(batch.setup)(batch)[0], out)
    for row, length in enumerate(batch.kv_lens):
        q_lens = [int(i == row) for i in range(len(batch.kv_lens))]
        alone = replace(
            batch,
            q_lens=q_lens,
            kv_lens=[length * q_len for q_len in q_lens],
            cu_q_lens=np.concatenate([[0], np.cumsum(q_lens)]),
        )
        np.testing.assert_array_equal(compiled(batch.setup)(alone)[0][row], out[row])


def test_a_row_does_not_depend_on_its_neighbours():
    """Bit for bit, whatever is in the batch and however the threads share the work."""
    setup = Setup(4, 2, 64, decode_only=True, tokens=6, pages_per_row=80, num_pages=200)
    check_that_rows_are_independent(make_batch(setup, [1] * 6, [200, 31, 1210, 1, 16, 700], seed=19))


def behind_one_prefix(setup: Setup, kv_lens: list[int], shared: list[int], seed: int) -> Batch:
    """Decoding rows; row ``i`` has the first ``shared[i]`` tokens, but for part of a page, from row 0."""
    batch = make_batch(setup, [1] * len(kv_lens), kv_lens, seed)
    pages = np.array(batch.pages)
    for row, tokens in enumerate(shared):
        tokens -= tokens % setup.page
        assert tokens < min(kv_lens[0], kv_lens[row])
        if row and tokens:
            pages[batch.page_table[row, : tokens // setup.page]] = 0  # nobody's any more
            batch.page_table[row, : tokens // setup.page] = batch.page_table[0, : tokens // setup.page]
            batch.keys[row][:tokens] = batch.keys[0][:tokens]
            batch.values[row][:tokens] = batch.values[0][:tokens]
    batch.pages = jnp.asarray(pages)
    return batch


PREFIXES = {
    "one_for_all": ([600] * 12, [512] * 12),
    "longer_than_a_part": ([1100 + 7 * i for i in range(12)], [1088] * 12),
    "of_several_lengths": ([700] * 12, [0, 256, 256, 640, 0, 640, 640, 256, 64, 16, 640, 0]),
    "that_ends_a_token_before": ([161 + i % 2 for i in range(12)], [160] * 12),
    "beside_others": (
        [300, 290, 1, 17, 300, 260, 40, 299, 300, 128, 1200, 258],
        [256, 256, 0, 0, 256, 256, 0, 256, 256, 0, 0, 256],
    ),
}
BEHIND_PREFIXES = {
    "mha": Setup(4, 4, 64),
    "gqa_sinks": Setup(6, 2, 80, sinks=True, alibi=False),
    "window": Setup(4, 2, 64, window=200),
    "odd_page": Setup(4, 2, 64, page=21),
    "odd_head_window": Setup(2, 1, 20, window=333),
    "bfloat16": Setup(4, 2, 64, dtype="bfloat16"),
    "int8": Setup(4, 2, 64, kv_dtype="int8", k_scale=0.05, v_scale=0.04),
}


@pytest.mark.parametrize("case", PREFIXES)
@pytest.mark.parametrize("name", BEHIND_PREFIXES)
def test_rows_behind_one_prefix(name, case):
    """They go through its pages together, and get what each would get alone."""
    setup = replace(
        BEHIND_PREFIXES[name], decode_only=True, rows=12, tokens=12, pages_per_row=80, num_pages=900
    )
    batch = behind_one_prefix(setup, *PREFIXES[case], seed=24)
    for isa in isas():
        check(batch, isa)
    check_that_rows_are_independent(batch)


def test_pages_that_left_the_window_may_be_anything():
    """A scheduler may free them: neither their keys nor their values reach the result."""
    setup = SETUPS["gqa_window_below_page"]
    batch = make_batch(setup, [1, 20], [200, 150], seed=14)
    pages = np.array(batch.pages)
    for row, first_seen in ((0, 200 - 7), (1, 150 - 20 - 6)):
        pages[batch.page_table[row, : first_seen // setup.page]] = np.nan
    batch.pages = jnp.asarray(pages)
    out, _ = compiled(setup)(batch)
    np.testing.assert_allclose(out, expected_output(batch), rtol=1e-5, atol=1e-5)


def test_nan_in_a_context_stays_in_its_row():
    """A sequence that went wrong must show it, and its neighbours must not notice."""
    setup = SETUPS["mha_alibi"]
    batch = make_batch(setup, [1, 1, 20], [40, 50, 60], seed=20)
    pages = np.array(batch.pages)
    pages[batch.page_table[1, 0], 0, :, 3] = np.nan
    pages[batch.page_table[2, 0], 1, :, 3] = np.nan
    batch.pages = jnp.asarray(pages)
    out, _ = compiled(setup)(batch)
    np.testing.assert_allclose(out[0], expected_output(batch)[0], rtol=1e-5, atol=1e-5)
    assert np.isnan(out[1]).all() and np.isnan(out[2:22]).all()


@pytest.mark.parametrize("kv_dtype", ["bfloat16", "float8_e4m3fn", "int8"])
def test_every_number_is_stored_as_by_xla(kv_dtype):
    """All bfloat16 numbers, subnormals, infinities and NaN included, in every instruction set."""
    numbers = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)
    with np.errstate(invalid="ignore"):
        numbers = numbers * np.float32(1.0009765625)  # off the grid
    setup = Setup(2, 2, 128, tokens=256, rows=1, kv_dtype=kv_dtype, k_scale=0.7, v_scale=1.0, num_pages=20)
    batch = make_batch(setup, [256], [256], seed=21)
    k = jnp.asarray(numbers.reshape(256, 2, 128))
    scales = {"k_scale": 0.7, "v_scale": 1.0}
    expected = np.asarray(xla.write_pages(batch.pages, k, k, batch.metadata(), **scales))
    is_nan = np.isnan(numbers.reshape(256, 2, 128))
    for isa in isas():
        _, pages = cpu.paged_attention(
            batch.q, k, k, jnp.array(batch.pages), batch.metadata(), scale=1.0, isa=isa, **scales
        )
        table = batch.page_table[0, :16]
        for half in range(2):
            ours = np.asarray(pages)[table, half].transpose(0, 2, 1, 3).reshape(256, 2, 128)
            theirs = expected[table, half].transpose(0, 2, 1, 3).reshape(256, 2, 128)
            np.testing.assert_array_equal(ours[~is_nan], theirs[~is_nan])
            if kv_dtype != "int8":  # which has none
                kind = getattr(ml_dtypes, kv_dtype)
                assert np.isnan(ours[is_nan].view(kind).astype(np.float32)).all()


def test_every_float8_is_read_as_it_is():
    """A context of one key has the weight 1: the result is its value."""
    setup = Setup(1, 1, 256, tokens=1, rows=1, kv_dtype="float8_e4m3fn", alibi=False)
    numbers = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    batch = make_batch(setup, [1], [1], seed=22)
    v = jnp.asarray(np.nan_to_num(numbers).reshape(1, 1, 256))
    for isa in isas():
        out, _ = cpu.paged_attention(
            batch.q, batch.k, v, jnp.array(batch.pages), batch.metadata(), scale=1.0, isa=isa
        )
        np.testing.assert_array_equal(out, v)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
def test_the_cache_is_never_copied(dtype):
    """The donated step writes in place: the compiled program has no copy, and no memory, of its size."""
    setup = Setup(4, 4, 64, kv_dtype=dtype, num_pages=4096)
    batch = make_batch(setup, [1, 30], [100, 30], seed=15)

    def step(q, k, v, layers, metadata):
        attend = partial(
            attention.paged_attention, metadata=metadata, scale=setup.scale, implementation="cpu"
        )
        for i, pages in enumerate(layers):
            q, layers[i] = attend(q, k, v, pages)
        return q, layers

    arguments = (batch.q, batch.k, batch.v, [batch.pages] * 3, batch.metadata())
    program = jax.jit(step, donate_argnums=3).lower(*arguments).compile()
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes >= 3 * batch.pages.nbytes, "the pages are not updated in place"
    assert memory.temp_size_in_bytes < batch.pages.nbytes / 4
    shape = ",".join(str(size) for size in batch.pages.shape)
    copies = [line for line in program.as_text().splitlines() if f"[{shape}]" in line and " copy(" in line]
    assert not copies


@pytest.mark.parametrize(
    "setup",
    [
        SETUPS["mha_alibi"],
        SETUPS["mha_alibi_decode"],
        Setup(4, 2, 38, window=40),
        Setup(4, 2, 64, dtype="bfloat16"),
        Setup(4, 2, 128, dtype="bfloat16", decode_only=True, tokens=6),
        Setup(4, 2, 64, kv_dtype="int8", k_scale=0.05, v_scale=0.04),
    ],
)
def test_it_rotates_as_the_layers_do(setup):
    """Queries, and keys before they are stored; the angles are of no dtype's grid."""
    batch = make_batch(setup, *random_lengths(setup, np.random.default_rng(5)), seed=23)
    angles = np.random.default_rng(6).uniform(-4, 4, (setup.tokens, setup.head_dim // 2))
    cos, sin = (jnp.asarray(f(angles), setup.dtype) for f in (np.cos, np.sin))

    def turned(x, dtype):
        exact = apply_rotary(x.astype(jnp.float32), cos.astype(jnp.float32), sin.astype(jnp.float32))
        return np.asarray(exact.astype(dtype))

    k = turned(batch.k, setup.dtype)
    for row, (q_len, kv_len) in enumerate(zip(batch.q_lens, batch.kv_lens, strict=True)):
        token = batch.token_of(row)
        batch.keys[row][kv_len - q_len :] = k[token : token + q_len]
    expected = replace(batch, q=turned(batch.q, np.float32), k=k)
    for isa in isas():
        out, pages = cpu.paged_attention(
            batch.q,
            batch.k,
            batch.v,
            jnp.array(batch.pages),
            batch.metadata("cpu"),
            scale=setup.scale,
            alibi_slopes=None if setup.slopes is None else jnp.asarray(setup.slopes),
            sliding_window=setup.window,
            k_scale=setup.k_scale,
            v_scale=setup.v_scale,
            rotary=(cos, sin),
            isa=isa,
        )
        exact = setup.dtype == "float32" and setup.kv_dtype is None
        tolerance = 2e-5 if exact else 2e-2  # else a last bit decides about a step of the stored numbers
        np.testing.assert_allclose(
            np.asarray(out, np.float64), expected_output(expected), rtol=tolerance, atol=tolerance
        )
        if exact:
            np.testing.assert_allclose(pages, expected_pages(expected), rtol=1e-5, atol=1e-5)


def test_rotary_that_does_not_fit_is_refused():
    batch = make_batch(SETUPS["mha_alibi"], [1], [1], seed=0)
    angles = jnp.zeros((96, 32))
    for implementation, rotary, text in (
        ("xla", (angles, angles), "rotated already"),
        ("cpu", (angles, angles[:, :16]), "sin"),
    ):
        with pytest.raises(ValueError, match=text):
            attention.paged_attention(
                batch.q,
                batch.k,
                batch.v,
                batch.pages,
                batch.metadata(),
                scale=1.0,
                rotary=rotary,
                implementation=implementation,
            )


class TestDispatch:
    def test_it_is_what_a_cpu_takes(self, monkeypatch):
        assert attention.implementation_for("cpu") == "cpu"
        assert attention.implementation_for("cpu", "xla") == "xla"
        with pytest.raises(ConfigError, match=r"'cpu' runs on cpu, but the device is a gpu"):
            attention.implementation_for("gpu", "cpu")
        monkeypatch.setattr(cpu, "available", lambda: False)
        assert attention.implementation_for("cpu") == "xla"

    def test_without_the_library_it_is_refused(self, monkeypatch):
        monkeypatch.setattr(cpu, "available", lambda: False)
        with pytest.raises(ConfigError, match=r"needs the native kernels.*--attention-implementation xla"):
            attention.get_implementation("cpu").check(4, 2, 64, 16, jnp.dtype(jnp.float32))

    def test_dtypes(self):
        with pytest.raises(ConfigError, match="cannot be stored as float16"):
            attention.get_implementation("cpu").check(4, 2, 64, 16, jnp.dtype(jnp.float16))
