"""Paged attention on a GPU: writes the step's keys, then runs the kernels that the batch may need.

Knows what the kernels can do and what they refuse. Does not know how they work: ``decode.py`` attends for the
rows of one query token, ``prefill.py`` for all others, and both fill their tokens into one array. A batch
that is ``decode_only`` runs the former alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from vllm_jax.errors import ConfigError
from vllm_jax.kernels.gpu.cache import pages_dtype, write_pages
from vllm_jax.kernels.gpu.decode import attend_decode_rows
from vllm_jax.kernels.gpu.prefill import attend_prefill_rows
from vllm_jax.kernels.gpu.scores import TENSOR_CORE_FLOAT32, Scoring
from vllm_jax.kernels.metadata import AttentionMetadata
from vllm_jax.kernels.pages import KV_DTYPES, pages_shape

__all__ = ["PAGE_SIZE", "check_combination", "paged_attention", "pages_dtype", "pages_shape"]

PAGE_SIZE = 64
"""Tokens of a page where the user has no wish: a block of keys lies in one page then."""
_SMALLEST_PAGE, _LARGEST_PAGE = 16, 256
_LARGEST_HEAD = 256
_FLOAT8 = 8.9


def paged_attention(
    q: jax.Array,  # [T, H, D]
    k: jax.Array,  # [T, KH, D]
    v: jax.Array,  # [T, KH, D]
    kv_pages: jax.Array,  # [N, 2, KH, page, D]
    metadata: AttentionMetadata,
    *,
    scale: float,
    alibi_slopes: jax.Array | None = None,  # [H] float32
    sliding_window: int | None = None,
    soft_cap: float | None = None,
    sinks: jax.Array | None = None,  # [H] float32
    k_scale: float | None = None,
    v_scale: float | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Writes the step's keys and values into the pages, then attends; see ``kernels/attention.py``.

    Args:
        interpret: runs the kernels in JAX's interpreter, on any device. For tests.

    Raises:
        ConfigError: the kernels cannot do this; the text says what.
        ValueError: arrays do not fit together.
    """
    check_arrays(q, k, kv_pages)
    check_combination(q.shape[1], k.shape[1], q.shape[2], kv_pages.shape[3], kv_pages.dtype)
    slopes = jnp.zeros(q.shape[1], jnp.float32) if alibi_slopes is None else alibi_slopes
    no_sinks = jnp.zeros(q.shape[1], jnp.float32)
    scoring = Scoring(
        scale=scale * (1.0 if k_scale is None else k_scale),
        value_scale=1.0 if v_scale is None else v_scale,
        soft_cap=soft_cap,
        window=sliding_window,
        has_alibi=alibi_slopes is not None,
        has_sinks=sinks is not None,
        precision=jax.lax.Precision.HIGHEST if interpret else TENSOR_CORE_FLOAT32,
    )
    kv_pages = write_pages(kv_pages, k, v, metadata, k_scale, v_scale)
    exact = jnp.float32 in (q.dtype, kv_pages.dtype)
    queries = q.astype(jnp.float32 if exact else jnp.bfloat16)
    head_arrays = (slopes.astype(jnp.float32), (no_sinks if sinks is None else sinks).astype(jnp.float32))

    if metadata.decode_only:
        tokens = jnp.arange(q.shape[0], dtype=jnp.int32)
    else:  # an empty row behind a full batch must not point behind the queries: its query is loaded
        tokens = jnp.minimum(metadata.cu_q_lens[:-1], q.shape[0] - 1)
    lens = jnp.where(metadata.q_lens == 1, metadata.kv_lens, 0)
    out = attend_decode_rows(
        jnp.zeros_like(q),  # padding tokens stay 0
        queries,
        kv_pages,
        metadata.page_table,
        tokens,
        lens,
        *head_arrays,
        scoring,
        interpret=interpret,
    )
    if not metadata.decode_only and q.shape[0] > 1:
        out = attend_prefill_rows(
            out, queries, kv_pages, metadata, *head_arrays, scoring, interpret=interpret
        )
    return out, kv_pages


def check_combination(
    num_heads: int, num_kv_heads: int, head_dim: int, page_size: int, kv_dtype: jnp.dtype
) -> None:
    """Static check of what the kernels can do, on this GPU. Raises ConfigError with the reason."""
    del num_heads, num_kv_heads  # any will do
    capability = _compute_capability()
    if pages_dtype(kv_dtype) == jnp.float8_e4m3fn and capability is not None and capability < _FLOAT8:
        raise ConfigError(
            f"GPU attention reads fp8 KV pages on compute capability {_FLOAT8} and above (L40, H100), "
            f"this GPU has {capability}; take another --kv-cache-dtype"
        )
    if not _SMALLEST_PAGE <= page_size <= _LARGEST_PAGE:
        raise ConfigError(
            f"GPU attention wants a --block-size of {_SMALLEST_PAGE} to {_LARGEST_PAGE}, not {page_size}"
        )
    if head_dim % 16 or not 16 <= head_dim <= _LARGEST_HEAD:
        raise ConfigError(
            f"GPU attention wants a head dim that is a multiple of 16 up to {_LARGEST_HEAD}, not {head_dim}"
        )


def check_arrays(q: jax.Array, k: jax.Array, kv_pages: jax.Array) -> None:
    """Static checks of the arrays, at trace time. Raises ConfigError or ValueError."""
    if kv_pages.ndim != 5 or kv_pages.shape != pages_shape(
        kv_pages.shape[0], kv_pages.shape[3], *k.shape[1:]
    ):
        raise ValueError(f"pages {kv_pages.shape} do not fit k {k.shape}: shape them with kv_pages_shape()")
    if kv_pages.dtype not in KV_DTYPES:
        raise ValueError(f"pages of {kv_pages.dtype}: allocate them with kv_pages_dtype()")
    if q.dtype not in (jnp.bfloat16, jnp.float32):
        raise ConfigError(f"GPU attention computes in bfloat16 or float32, not in {q.dtype}")
    if kv_pages.dtype.itemsize == 1 and 1 << 31 <= kv_pages.size <= 1 << 32:
        raise ConfigError(
            f"GPU attention cannot address one-byte KV pages of {kv_pages.size / 2**30:.1f} GiB a layer, "
            "only below 2 or above 4 GiB (--num-gpu-blocks-override, --kv-cache-memory-bytes)"
        )


def _compute_capability() -> float | None:
    """Of the first CUDA device, for which the kernels are compiled; None where there is none."""
    try:
        return float(jax.local_devices(backend="gpu")[0].compute_capability)
    except (RuntimeError, ValueError):  # no GPU; or one of another maker
        return None
