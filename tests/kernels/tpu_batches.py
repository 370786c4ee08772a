"""Ragged batches in the TPU kernels' layout, and how they are run in interpret mode."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax._src.pallas.mosaic.interpret import interpret_pallas_call
from jax.experimental.pallas import tpu as pltpu
from ragged_batches import Batch, Setup, expected_output, expected_pages

from vllm_jax.kernels.tpu.attention import paged_attention
from vllm_jax.kernels.tpu.blocks import BlockSizes

VMEM = 64 << 20
FAST_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""A program runs once or twice here, and compiling it is most of the time."""


def tpu_pages(pages: np.ndarray, setup: Setup) -> np.ndarray:
    """Pages of the common layout ``[N, 2, KH, page, D]`` as ``[N, L, page, 128]``.

    The lanes behind a token's values are 0 where the token is real and NaN where it is poison.
    """
    dtype = setup.stored_dtype
    numbers = pages.view(dtype if dtype in ("float32", "int8") else getattr(ml_dtypes, dtype))
    rows = numbers.transpose(0, 3, 1, 2, 4).reshape(pages.shape[0], setup.page, -1)
    missing = -rows.shape[-1] % 128
    if dtype == "int8":
        tail = np.where(rows[..., :1] == -128, np.int8(-128), np.int8(0))
    else:
        tail = np.where(np.isnan(rows[..., :1].astype(np.float32)), np.nan, 0).astype(rows.dtype)
    rows = np.concatenate([rows, np.repeat(tail, missing, axis=-1)], axis=-1)
    return rows.reshape(*rows.shape[:2], -1, 128).transpose(0, 2, 1, 3)


@cache
def compiled(setup: Setup, mode: str, q_tokens: int, kv_tokens: int):
    """``batch -> (out, pages)`` in interpret mode, with races detected."""
    interpret = pltpu.InterpretParams(dma_execution_mode=mode, detect_races=True)

    @partial(jax.jit, compiler_options=FAST_COMPILE)
    def attend(q, k, v, pages, metadata):
        return paged_attention(
            q,
            k,
            v,
            pages,
            metadata,
            scale=setup.scale,
            alibi_slopes=None if setup.slopes is None else jnp.asarray(setup.slopes),
            sliding_window=setup.window,
            soft_cap=setup.soft_cap,
            sinks=None if setup.sink_scores is None else jnp.asarray(setup.sink_scores),
            k_scale=setup.k_scale,
            v_scale=setup.v_scale,
            decode_sizes=BlockSizes(1, kv_tokens, VMEM),
            prefill_sizes=BlockSizes(q_tokens, kv_tokens, VMEM),
            interpret=interpret,
        )

    def run(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        pages = jnp.asarray(tpu_pages(np.asarray(batch.pages), setup))
        try:
            out, pages = attend(batch.q, batch.k, batch.v, pages, batch.metadata("tpu"))
            out, pages = np.asarray(out), np.asarray(pages)
        except Exception:
            pltpu.reset_tpu_interpret_mode_state()
            raise
        assert out.dtype == setup.dtype
        return out.astype(np.float64), pages

    return run


def races_found() -> bool:
    """Whether the last run had a data race."""
    return bool(interpret_pallas_call.races.races_found)


def check(batch: Batch, mode: str, q_tokens: int = 8, kv_tokens: int = 32) -> None:
    """Runs a batch and holds it against the oracle in float64: result, pages, races."""
    setup = batch.setup
    out, pages = compiled(setup, mode, q_tokens, kv_tokens)(batch)
    assert not races_found(), "data race"
    assert np.isfinite(out).all(), "padding tokens must stay finite"
    expected = tpu_pages(expected_pages(batch), setup)
    np.testing.assert_array_equal(pages.astype(np.float32), expected.astype(np.float32))
    tolerance = 2e-2 if setup.dtype == "bfloat16" else 1e-5
    np.testing.assert_allclose(out, expected_output(batch), rtol=tolerance, atol=tolerance)
