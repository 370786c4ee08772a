"""How heads lie in the lanes: of the pages in HBM, of the queries and of the results.

Knows only shapes; knows neither sequences nor the kernel.

    one layer:   [num_pages, L, page, 128]          L = ceil(2 * KH * D / 128) lane tiles
    one token:   | K of head 0 | K of head 1 | ... | V of head 0 | V of head 1 | ... | up to 127 zeros |
                 cut into L tiles of 128 lanes; the tokens of a page are the sublanes of every tile

A page is one contiguous piece of HBM for every head dim: two heads of 64 share a tile, eight of 80 fill five
and four of 96 fill three, so nothing is padded but the row's tail. A tile goes to the matrix unit as it is.

Heads are taken in *units*: ``hb`` neighbouring KV heads with their ``G`` query heads each. A unit's keys lie
in a window of whole tiles, and its queries are laid block-diagonally over that window, zeros elsewhere:

                lanes of the window
    head 0:   | q q q q 0 0 0 0 |        one product gives the scores of all heads of the unit, a row each;
    head 1:   | 0 0 0 0 q q q q |        the same weights times the values give more than is wanted, and the
                                         off-diagonal part of the result is dropped

For decoding that is free: the matrix unit takes eight rows in the time of one, and softmax then works on full
registers. For prefill a unit is one KV head, whose window may hold lanes of its neighbours: with head dim 64
half of the 128 lanes (as padding would), with 80 and 96 up to two tiles, so at most 3.2 and 2.7 times the
arithmetic of an unpadded product in attention, and no memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from vllm_jax.kernels import pages
from vllm_jax.kernels.pages import quantize

LANES = 128
SUBLANES = 8


def lane_tiles(num_kv_heads: int, head_dim: int) -> int:
    """Tiles of 128 lanes that one token's keys and values take (L)."""
    return -(-2 * num_kv_heads * head_dim // LANES)


def pages_shape(num_pages: int, page_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, ...]:
    """Shape of one layer's pages: ``[num_pages, L, page, 128]``."""
    return (num_pages, lane_tiles(num_kv_heads, head_dim), page_size, LANES)


def pages_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype pages have: that of the keys and values. Raises ConfigError where it cannot be stored."""
    pages.pages_dtype(dtype)
    return jnp.dtype(dtype)


def wide_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The 32-bit dtype in which numbers of pages are merged: rows of narrow ones cannot be told apart."""
    return jnp.dtype(jnp.float32 if jnp.issubdtype(dtype, jnp.floating) else jnp.int32)


def tile_rows(dtype: jnp.dtype) -> int:
    """Sublanes of a whole tile of a dtype: 8, 16 or 32."""
    return SUBLANES * 4 // jnp.dtype(dtype).itemsize


def split_pages(pages: jax.Array) -> jax.Array:
    """``[N, L, page, 128]`` -> ``[N, L, page / group, group, 128]``, the same bytes.

    A *group* is what is written together: whole tiles of the dtype, or a page that is smaller. As an axis of
    its own it needs no alignment: pages of 16 tokens of one byte are half tiles, and yet whole groups.
    """
    num_pages, tiles, page_size, lanes = pages.shape
    group = min(page_size, tile_rows(pages.dtype))
    return pages.reshape(num_pages, tiles, page_size // group, group, lanes)


@dataclass(frozen=True)
class Window:
    """Where units lie: tile ``first[u]`` starts unit u's window, ``offset[u]`` is its first lane there."""

    first: tuple[int, ...]
    offset: tuple[int, ...]
    num_tiles: int


@dataclass(frozen=True)
class HeadUnits:
    """KV heads in units of ``heads`` (hb), each with ``group`` (G) query heads; U = KH / hb units."""

    num_kv_heads: int
    group: int
    head_dim: int
    heads: int

    @classmethod
    def with_rows(cls, num_kv_heads: int, group: int, head_dim: int, rows: int) -> HeadUnits:
        """The smallest units that have at least ``rows`` query heads each, or else one unit of all heads."""
        fitting = [n for n in range(1, num_kv_heads + 1) if num_kv_heads % n == 0 and n * group >= rows]
        return cls(num_kv_heads, group, head_dim, min(fitting, default=num_kv_heads))

    @property
    def num_units(self) -> int:
        """U."""
        return self.num_kv_heads // self.heads

    @property
    def rows_per_token(self) -> int:
        """Query heads of a unit, hb * G."""
        return self.heads * self.group

    def num_rows(self, num_tokens: int) -> int:
        """Rows of a unit's products for ``num_tokens`` query tokens, up to whole sublanes (M)."""
        return -(-num_tokens * self.rows_per_token // SUBLANES) * SUBLANES

    @property
    def keys(self) -> Window:
        """Where each unit's keys lie."""
        return self._window(0)

    @property
    def values(self) -> Window:
        """Where each unit's values lie."""
        return self._window(self.num_kv_heads * self.head_dim)

    def _window(self, base: int) -> Window:
        width = self.heads * self.head_dim
        begins = [base + unit * width for unit in range(self.num_units)]
        num_tiles = max(-(-(begin + width) // LANES) - begin // LANES for begin in begins)
        last = lane_tiles(self.num_kv_heads, self.head_dim) - num_tiles
        first = tuple(min(begin // LANES, last) for begin in begins)
        offset = tuple(begin - tile * LANES for begin, tile in zip(begins, first, strict=True))
        return Window(first, offset, num_tiles)


def pack_tokens(
    k: jax.Array,  # [T, KH, D]
    v: jax.Array,  # [T, KH, D]
    dtype: jnp.dtype,
    k_scale: float | None,
    v_scale: float | None,
) -> jax.Array:
    """Keys and values as pages hold them, the tiles of a token in a row: ``[T, L * 128]`` of ``dtype``."""
    num_tokens, num_kv_heads, head_dim = k.shape
    row = jnp.concatenate(
        [
            quantize(k.reshape(num_tokens, -1), dtype, k_scale),
            quantize(v.reshape(num_tokens, -1), dtype, v_scale),
        ],
        axis=1,
    )
    missing = lane_tiles(num_kv_heads, head_dim) * LANES - row.shape[1]
    return jnp.pad(row, ((0, 0), (0, missing)))


def stack_tokens(
    k: jax.Array,  # [T, KH, D]
    v: jax.Array,  # [T, KH, D]
    dtype: jnp.dtype,
    k_scale: float | None,
    v_scale: float | None,
) -> jax.Array:
    """The same numbers as of :func:`pack_tokens` with a token's tiles below each other: ``[T, L, 128]``."""
    num_tokens, _, head_dim = k.shape
    if head_dim % LANES:
        return pack_tokens(k, v, dtype, k_scale, v_scale).reshape(num_tokens, -1, LANES)
    stacked = jnp.concatenate([quantize(k, dtype, k_scale), quantize(v, dtype, v_scale)], axis=1)
    return stacked.reshape(num_tokens, -1, LANES)


def is_flat(units: HeadUnits, block: int, dtype: jnp.dtype) -> bool:
    """Whether the kernel lays heads out by itself, and takes queries as the model has them.

    Where heads are whole tiles of lanes, and rows whole tiles of sublanes: in prefill the tokens of a block
    (queries ``[T, H * D]``), in decode the query heads of a unit (``[S, H, D]``).
    """
    if units.head_dim % LANES:
        return False
    if block == 1:
        return units.rows_per_token % SUBLANES == 0
    return units.heads == 1 and block % tile_rows(dtype) == 0


def pad_tokens(x: jax.Array, block: int) -> jax.Array:
    """``[T, ...]`` with zeros behind it up to whole blocks of tokens."""
    return jnp.pad(x, ((0, -x.shape[0] % block), *((0, 0),) * (x.ndim - 1)))


def arrange_queries(q: jax.Array, units: HeadUnits, block: int) -> jax.Array:
    """``q [T, H, D]`` -> ``[ceil(T / block), U, M, W]``, W the lanes of a key window.

    Row ``(j * G + g) * block + t`` of unit u holds query head ``(u * hb + j) * G + g`` of the block's token
    t. Tokens and heads change places in one step, so that XLA moves whole tiles.
    """
    num_heads, head_dim = q.shape[1:]
    q = pad_tokens(q, block)
    blocks = q.shape[0] // block
    q = q.reshape(blocks, block, num_heads, head_dim).transpose(0, 2, 1, 3)
    if units.heads > 1:
        q = q.reshape(blocks, units.num_units, units.heads, units.group, block, head_dim)
        q = jnp.where(_diagonal(units), q[..., None, :], 0)  # [n, U, hb, G, block, hb, D]
    q = q.reshape(blocks, units.num_units, block * units.rows_per_token, units.heads * head_dim)
    window = units.keys
    right = [window.num_tiles * LANES - q.shape[-1] - offset for offset in window.offset]
    missing = units.num_rows(block) - q.shape[2]
    if len(set(window.offset)) == 1:
        return jnp.pad(q, ((0, 0), (0, 0), (0, missing), (window.offset[0], right[0])))
    placed = [
        jnp.pad(q[:, u], ((0, 0), (0, missing), (window.offset[u], right[u]))) for u in range(units.num_units)
    ]
    return jnp.stack(placed, axis=1)


def collect_outputs(out: jax.Array, units: HeadUnits, block: int, num_tokens: int) -> jax.Array:
    """``[n, U, M, W]`` in value windows, rows as in :func:`arrange_queries` -> ``[num_tokens, H, D]``."""
    blocks = out.shape[0]
    width = units.heads * units.head_dim
    offsets = units.values.offset
    out = out[:, :, : block * units.rows_per_token]
    if len(set(offsets)) == 1:
        out = out[..., offsets[0] : offsets[0] + width]
    else:
        parts = [out[:, u, :, offset : offset + width] for u, offset in enumerate(offsets)]
        out = jnp.stack(parts, axis=1)
    shape = (blocks, units.num_units, units.heads, units.group, block)
    if units.heads > 1:
        out = out.reshape(*shape, units.heads, units.head_dim)
        out = jnp.sum(jnp.where(_diagonal(units), out, 0), axis=-2)
    out = out.reshape(blocks, -1, block, units.head_dim).transpose(0, 2, 1, 3)
    return out.reshape(blocks * block, -1, units.head_dim)[:num_tokens]


def arrange_head_values(values: jax.Array, units: HeadUnits, block: int) -> jax.Array:
    """One float32 a query head, ``[H]`` -> ``[U, M, 128]``: the row's head's value in every lane."""
    rows = values.astype(jnp.float32).reshape(units.num_units, units.rows_per_token, 1)
    rows = jnp.broadcast_to(rows, (units.num_units, units.rows_per_token, block))
    rows = rows.reshape(units.num_units, -1)
    rows = jnp.pad(rows, ((0, 0), (0, units.num_rows(block) - rows.shape[1])))
    return jnp.broadcast_to(rows[..., None], (*rows.shape, LANES))


def _diagonal(units: HeadUnits) -> jax.Array:
    """``[hb, 1, 1, hb, 1]``: True where the row's head is the lanes' head."""
    return jnp.eye(units.heads, dtype=bool)[:, None, None, :, None]


def is_page_dtype(dtype: jnp.dtype) -> bool:
    """Whether pages may have this dtype."""
    return jnp.dtype(dtype) in pages.KV_DTYPES
