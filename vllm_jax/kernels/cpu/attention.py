"""Paged attention on a CPU by the native kernel in ``native/attention.cc``.

Knows how the operation is handed to the kernel. Does not know how the kernel cuts a batch into work for the
threads, nor which instructions it uses.

The pages' layout is that of the reference (``kernels/pages.py``): a head's keys lie in a row, which is how
they are read, and the kernel writes into it without XLA's help.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vllm_jax.errors import ConfigError
from vllm_jax.kernels import pages
from vllm_jax.kernels.cpu import library
from vllm_jax.kernels.metadata import AttentionMetadata
from vllm_jax.kernels.pages import check_pages, pages_dtype, pages_shape

__all__ = ["ISAS", "available", "check_combination", "paged_attention", "pages_dtype", "pages_shape"]

ISAS = ("portable", "avx2", "avx512", "avx512_bf16")
"""What the kernel is compiled for, in the order of ``native/isa.h``."""

available = library.available


def check_combination(
    num_heads: int, num_kv_heads: int, head_dim: int, page_size: int, kv_dtype: jnp.dtype
) -> None:
    """All heads, sizes and dtypes that pages can have are fine; the library has to be there.

    Raises:
        ConfigError: it was not built or cannot be loaded, or pages cannot store ``kv_dtype``.
    """
    pages.check_combination(num_heads, num_kv_heads, head_dim, page_size, kv_dtype)
    _check_available()


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
    rotary: tuple[jax.Array, jax.Array] | None = None,  # [T, D / 2] twice
    isa: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Writes the step's keys and values into the pages, then attends; see ``kernels/attention.py``.

    Args:
        isa: one of :data:`ISAS` instead of the best this processor has. For tests.

    Raises:
        ConfigError: the native kernels are not available.
        ValueError: arrays do not fit together.
    """
    check_pages(kv_pages, k)
    _check_available()
    dtype = q.dtype
    if dtype not in (jnp.float32, jnp.bfloat16) or not q.dtype == k.dtype == v.dtype:
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    none = jnp.zeros(0, jnp.float32)
    cos, sin = (none, none) if rotary is None else (angles.astype(jnp.float32) for angles in rotary)
    call = jax.ffi.ffi_call(
        "vllm_jax_paged_attention",
        (jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct(kv_pages.shape, kv_pages.dtype)),
        input_output_aliases={3: 1},
    )
    out, kv_pages = call(
        q,
        k,
        v,
        kv_pages,
        metadata.page_table,
        metadata.kv_lens,
        metadata.cu_q_lens,
        cos,
        sin,
        none if alibi_slopes is None else alibi_slopes.astype(jnp.float32),
        none if sinks is None else sinks.astype(jnp.float32),
        decode_only=metadata.decode_only,
        scale=np.float32(scale if k_scale is None else scale * k_scale),
        soft_cap=np.float32(soft_cap or 0.0),
        k_scale=np.float32(k_scale or 0.0),
        v_scale=np.float32(v_scale or 0.0),
        window=np.int64(sliding_window or 0),
        isa=np.int64(-1 if isa is None else ISAS.index(isa)),
    )
    return out.astype(dtype), kv_pages


def _check_available() -> None:
    if not available():
        raise ConfigError(
            "the attention implementation 'cpu' needs the native kernels, which were "
            f"{library.library().reason}; --attention-implementation xla does without"
        )
