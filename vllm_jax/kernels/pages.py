"""The layout of KV pages that the reference and the XLA implementation share.

    one layer:  [num_pages, 2, KH, page, D]     keys at index 0 of axis 1, values at index 1

A page's keys lie together and each head's tokens in a row, so that gathered pages go into a batched product
as they are. bfloat16 is stored as its bits in uint16: XLA's CPU backend widens any bfloat16 scatter or gather
to float32, which converts the whole cache, twice, for every token written. For the same reason
float8_e4m3fn is stored as its bits in uint8. int8 is stored as int8.

Stored numbers are ``value / scale``, rounded; int8 and float8 saturate at their largest finite numbers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from vllm_jax.errors import ConfigError

KV_DTYPES = tuple(jnp.dtype(d) for d in (jnp.float32, jnp.bfloat16, jnp.int8, jnp.float8_e4m3fn))
"""What keys and values can be stored as, whatever the implementation."""
_BITS = {
    jnp.dtype(jnp.bfloat16): jnp.dtype(jnp.uint16),
    jnp.dtype(jnp.float8_e4m3fn): jnp.dtype(jnp.uint8),
}


def pages_shape(num_pages: int, page_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, ...]:
    """Shape of one layer's pages."""
    return (num_pages, 2, num_kv_heads, page_size, head_dim)


def pages_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype in which keys and values of ``dtype`` are stored.

    Raises:
        ConfigError: ``dtype`` is none of :data:`KV_DTYPES`.
    """
    dtype = jnp.dtype(dtype)
    if dtype not in KV_DTYPES:
        raise ConfigError(f"keys and values cannot be stored as {dtype}; one of {_names(KV_DTYPES)}")
    return _BITS.get(dtype, dtype)


def check_combination(
    num_heads: int, num_kv_heads: int, head_dim: int, page_size: int, kv_dtype: jnp.dtype
) -> None:
    """Raises ConfigError where keys and values cannot be stored as ``kv_dtype``; all sizes are fine here."""
    del num_heads, num_kv_heads, head_dim, page_size
    pages_dtype(kv_dtype)


def check_pages(pages: jax.Array, k: jax.Array) -> None:
    """Raises ValueError where ``pages`` cannot hold keys like ``k [T, KH, D]``."""
    if pages.dtype not in {pages_dtype(dtype) for dtype in KV_DTYPES}:
        raise ValueError(f"pages of {pages.dtype} are stored otherwise: allocate them with kv_pages_dtype()")
    if pages.ndim != 5 or pages.shape != pages_shape(pages.shape[0], pages.shape[3], *k.shape[1:]):
        raise ValueError(f"pages {pages.shape} do not fit k {k.shape}: shape them with kv_pages_shape()")


def quantize(values: jax.Array, dtype: jnp.dtype, scale: float | None) -> jax.Array:
    """``values / scale`` of any float dtype, rounded to ``dtype`` (one of :data:`KV_DTYPES`)."""
    dtype = jnp.dtype(dtype)
    if scale is not None:
        values = values.astype(jnp.float32) / scale
    if dtype == jnp.int8:
        return jnp.clip(jnp.round(values.astype(jnp.float32)), -127, 127).astype(jnp.int8)
    if dtype == jnp.float8_e4m3fn:
        largest = float(jnp.finfo(dtype).max)
        return jnp.clip(values.astype(jnp.float32), -largest, largest).astype(dtype)
    return values.astype(dtype)


def encode(values: jax.Array, pages: jax.Array, scale: float | None = None) -> jax.Array:
    """``values / scale``, rounded to what ``pages`` hold, in their dtype."""
    for dtype, bits in _BITS.items():
        if pages.dtype == bits:
            return jax.lax.bitcast_convert_type(quantize(values, dtype, scale), bits)
    return quantize(values, pages.dtype, scale)


def decode(stored: jax.Array) -> jax.Array:
    """What was gathered from pages, as float32, not yet multiplied by its scale."""
    if stored.dtype == jnp.uint16:
        return jax.lax.bitcast_convert_type(stored.astype(jnp.uint32) << 16, jnp.float32)
    if stored.dtype == jnp.uint8:
        stored = jax.lax.bitcast_convert_type(stored, jnp.float8_e4m3fn)
    return stored.astype(jnp.float32)


def _names(dtypes: tuple[jnp.dtype, ...]) -> str:
    return ", ".join(str(dtype) for dtype in dtypes)
