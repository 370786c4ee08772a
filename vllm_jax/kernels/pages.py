"""The layout of KV pages that the reference and the XLA implementation share.

    one layer:  [num_pages, 2, KH, page, D]     keys at index 0 of axis 1, values at index 1

A page's keys lie together and each head's tokens in a row, so that gathered pages go into a batched product
as they are. bfloat16 is stored as its bits in uint16: XLA's CPU backend widens any bfloat16 scatter or gather
to float32, which converts the whole cache, twice, for every token written.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def pages_shape(num_pages: int, page_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, ...]:
    """Shape of one layer's pages."""
    return (num_pages, 2, num_kv_heads, page_size, head_dim)


def pages_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype in which keys and values of ``dtype`` (float32 or bfloat16) are stored."""
    return jnp.dtype(jnp.uint16) if dtype == jnp.bfloat16 else jnp.dtype(dtype)


def check_pages(pages: jax.Array, k: jax.Array) -> None:
    """Raises ValueError where ``pages`` cannot hold keys like ``k [T, KH, D]``."""
    if pages.dtype != pages_dtype(pages.dtype):
        raise ValueError(f"pages of {pages.dtype} are stored otherwise: allocate them with kv_pages_dtype()")
    if pages.ndim != 5 or pages.shape != pages_shape(pages.shape[0], pages.shape[3], *k.shape[1:]):
        raise ValueError(f"pages {pages.shape} do not fit k {k.shape}: shape them with kv_pages_shape()")


def encode(values: jax.Array, pages: jax.Array) -> jax.Array:
    """``values`` of any float dtype, rounded to what ``pages`` hold, in their dtype."""
    if pages.dtype == jnp.uint16:
        return jax.lax.bitcast_convert_type(values.astype(jnp.bfloat16), jnp.uint16)
    return values.astype(pages.dtype)


def decode(stored: jax.Array) -> jax.Array:
    """What was gathered from pages, as float32."""
    if stored.dtype == jnp.uint16:
        return jax.lax.bitcast_convert_type(stored.astype(jnp.uint32) << 16, jnp.float32)
    return stored.astype(jnp.float32)
