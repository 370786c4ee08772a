"""Ragged batches for the attention tests, and an oracle in float64 that knows no pages.

The oracle keeps every sequence's keys and values in one array and attends with three loops; it shares no
code and no idea with the implementations.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from vllm_jax.kernels.attention import kv_pages_dtype, kv_pages_shape
from vllm_jax.kernels.metadata import AttentionMetadata


@dataclass(frozen=True)
class Setup:
    """What is static in a compiled attention function."""

    heads: int
    kv_heads: int
    head_dim: int
    page: int = 16
    window: int | None = None
    soft_cap: float | None = None
    alibi: bool = True
    dtype: str = "float32"
    kv_dtype: str | None = None
    k_scale: float | None = None
    v_scale: float | None = None
    sinks: bool = False
    decode_only: bool = False
    tokens: int = 96
    rows: int = 6
    pages_per_row: int = 20
    num_pages: int = 150
    given_scale: float | None = None

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5 if self.given_scale is None else self.given_scale

    @property
    def slopes(self) -> np.ndarray | None:
        steep = 2.0 ** -np.linspace(1, 8, self.heads)
        return steep.astype(np.float32) if self.alibi else None

    @property
    def sink_scores(self) -> np.ndarray | None:
        return np.linspace(-2, 3, self.heads).astype(np.float32) if self.sinks else None

    @property
    def stored_dtype(self) -> str:
        return self.kv_dtype or self.dtype

    @property
    def capacity(self) -> int:
        return self.page * self.pages_per_row


@dataclass
class Batch:
    """One step's input, and the contexts it stands for."""

    setup: Setup
    q_lens: list[int]
    kv_lens: list[int]
    keys: list[np.ndarray]
    values: list[np.ndarray]
    q: jnp.ndarray
    k: jnp.ndarray
    v: jnp.ndarray
    pages: jnp.ndarray
    page_table: np.ndarray
    cu_q_lens: np.ndarray

    def metadata(self, implementation: str = "xla") -> AttentionMetadata:
        return AttentionMetadata(
            jnp.asarray(self.page_table),
            jnp.asarray(self.kv_lens, jnp.int32),
            jnp.asarray(self.cu_q_lens, jnp.int32),
            self.setup.decode_only,
            implementation,
        )

    def token_of(self, row: int) -> int:
        """The flat index of a row's first query token."""
        return row if self.setup.decode_only else int(self.cu_q_lens[row])


_BITS = {"bfloat16": np.uint16, "float8_e4m3fn": np.uint8}


def stored(values: np.ndarray, setup: Setup, scale: float | None = None) -> np.ndarray:
    """``values / scale`` rounded to what the setup stores, as the pages' bits; NaN is -128 in int8."""
    dtype = setup.stored_dtype
    values = np.asarray(values, np.float32) / np.float32(1 if scale is None else scale)
    if dtype == "int8":
        rounded = np.clip(np.rint(np.nan_to_num(values)), -127, 127)
        return np.where(np.isnan(values), -128, rounded).astype(np.int8)
    if dtype == "float8_e4m3fn":
        values = np.clip(values, -448, 448)
    return values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype).view(_BITS.get(dtype, dtype))


def as_seen(values: np.ndarray, setup: Setup, scale: float | None) -> np.ndarray:
    """What attention sees of ``values`` once they are stored: float64."""
    dtype = setup.stored_dtype
    bits = stored(values, setup, scale)
    return bits.view(dtype if dtype in ("int8", "float32") else getattr(ml_dtypes, dtype)).astype(float) * (
        1.0 if scale is None else scale
    )


def make_batch(setup: Setup, q_lens: list[int], kv_lens: list[int], seed: int) -> Batch:
    """Random numbers for the given lengths. What no sequence owns is NaN: pages, slots, padding tokens."""
    rng = np.random.default_rng(seed)
    q_lens = [*q_lens, *[0] * (setup.rows - len(q_lens))]
    kv_lens = [*kv_lens, *[0] * (setup.rows - len(kv_lens))]
    cu_q_lens = np.concatenate([[0], np.cumsum(q_lens)])
    assert cu_q_lens[-1] <= setup.tokens and max(kv_lens) <= setup.capacity

    def normal(count: int, heads: int) -> np.ndarray:
        drawn = rng.standard_normal((count, heads, setup.head_dim)) * 1.5
        return np.array(jnp.asarray(drawn, setup.dtype), np.float64)

    keys = [normal(length, setup.kv_heads) for length in kv_lens]
    values = [normal(length, setup.kv_heads) for length in kv_lens]
    q = np.full((setup.tokens, setup.heads, setup.head_dim), np.nan)
    k = np.full((setup.tokens, setup.kv_heads, setup.head_dim), np.nan)
    v = k.copy()
    shape = kv_pages_shape(setup.num_pages, setup.page, setup.kv_heads, setup.head_dim)
    pages = stored(np.full(shape, np.nan), setup)
    page_table = rng.integers(-5, 2 * setup.num_pages, (setup.rows, setup.pages_per_row))
    free = list(rng.permutation(setup.num_pages))
    for row, (q_len, kv_len) in enumerate(zip(q_lens, kv_lens, strict=True)):
        for i in range(-(-kv_len // setup.page)):
            page_table[row, i] = free.pop()
        for position in range(kv_len - q_len):
            slot = pages[page_table[row, position // setup.page], :, :, position % setup.page]
            slot[0] = stored(keys[row][position], setup, setup.k_scale)
            slot[1] = stored(values[row][position], setup, setup.v_scale)
        start = row if setup.decode_only else cu_q_lens[row]
        q[start : start + q_len] = normal(q_len, setup.heads)
        k[start : start + q_len] = keys[row][kv_len - q_len :]
        v[start : start + q_len] = values[row][kv_len - q_len :]
    assert kv_pages_dtype(jnp.dtype(setup.stored_dtype)) == pages.dtype
    return Batch(
        setup,
        q_lens,
        kv_lens,
        keys,
        values,
        jnp.asarray(q, setup.dtype),
        jnp.asarray(k, setup.dtype),
        jnp.asarray(v, setup.dtype),
        jnp.asarray(pages),
        page_table.astype(np.int32),
        cu_q_lens,
    )


def expected_output(batch: Batch) -> np.ndarray:
    """``[T, H, D]`` float64; zeros for padding tokens."""
    setup = batch.setup
    out = np.zeros(batch.q.shape)
    q = np.array(batch.q, np.float64)
    share = setup.heads // setup.kv_heads
    for row, (q_len, kv_len) in enumerate(zip(batch.q_lens, batch.kv_lens, strict=True)):
        all_keys = as_seen(batch.keys[row], setup, setup.k_scale)
        all_values = as_seen(batch.values[row], setup, setup.v_scale)
        for offset in range(q_len):
            token, position = batch.token_of(row) + offset, kv_len - q_len + offset
            first = 0 if setup.window is None else max(0, position - setup.window + 1)
            for head in range(setup.heads):
                keys = all_keys[first : position + 1, head // share]
                scores = setup.scale * keys @ q[token, head]
                if setup.soft_cap is not None:
                    scores = setup.soft_cap * np.tanh(scores / setup.soft_cap)
                if setup.slopes is not None:
                    scores = scores + setup.slopes[head] * (np.arange(first, position + 1) - position)
                sink = -np.inf if setup.sink_scores is None else setup.sink_scores[head]
                weights = np.exp(scores - max(scores.max(), sink))
                weights /= weights.sum() + np.exp(sink - max(scores.max(), sink))
                out[token, head] = weights @ all_values[first : position + 1, head // share]
    return out


def expected_pages(batch: Batch) -> np.ndarray:
    """The pages after the step, as stored: the new tokens at their places and nothing else changed."""
    setup = batch.setup
    pages = np.array(batch.pages)
    for row, (q_len, kv_len) in enumerate(zip(batch.q_lens, batch.kv_lens, strict=True)):
        for position in range(kv_len - q_len, kv_len):
            slot = pages[batch.page_table[row, position // setup.page], :, :, position % setup.page]
            slot[0] = stored(batch.keys[row][position], setup, setup.k_scale)
            slot[1] = stored(batch.values[row][position], setup, setup.v_scale)
    return pages


def random_lengths(setup: Setup, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Decodes, fresh prompts, continued chunks and empty rows, in any order, within the setup's sizes."""
    q_lens, kv_lens, budget, pages = [], [], setup.tokens, setup.num_pages
    for _ in range(setup.rows):
        kind = "decode" if setup.decode_only else rng.choice(["decode", "prompt", "chunk"])
        q_len = 1 if kind == "decode" else int(rng.integers(1, 50))
        context = 0 if kind == "prompt" else int(rng.integers(0, setup.capacity - q_len))
        if rng.random() < 0.2 or q_len > budget or -(-(q_len + context) // setup.page) > pages:
            q_len, context = 0, 0
        q_lens.append(q_len)
        kv_lens.append(q_len + context)
        budget -= q_len
        pages -= -(-(q_len + context) // setup.page)
    return q_lens, kv_lens
