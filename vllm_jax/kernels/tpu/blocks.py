"""How large the kernels' blocks are, for a chip, dtypes and heads: one table and a computed VMEM budget.

Knows what lies in VMEM at once and how much there is. Does not know what is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from vllm_jax.errors import ConfigError
from vllm_jax.kernels.tpu.layout import LANES, SUBLANES, HeadUnits, lane_tiles

MIB = 1 << 20


@dataclass(frozen=True)
class Chip:
    """What a TPU core has.

    Attributes:
        vmem_bytes: vector memory.
        smem_bytes: scalar memory.
        buffer_bytes: what one of the two key/value buffers may take: enough in flight to hide the latency of
            HBM, and enough tokens to make the work on a block longer than the turn around it.
        rows: rows of the largest product in prefill.
    """

    vmem_bytes: int
    smem_bytes: int
    buffer_bytes: int
    rows: int


CHIPS: Mapping[str, Chip] = MappingProxyType(
    {
        "v4": Chip(16 * MIB, MIB, MIB, 128),
        "v5e": Chip(128 * MIB, MIB, 4 * MIB, 256),
        "v5p": Chip(64 * MIB, MIB, 4 * MIB, 256),
        "v6e": Chip(128 * MIB, MIB, 4 * MIB, 256),
        "7": Chip(64 * MIB, MIB, 4 * MIB, 256),
        "7x": Chip(64 * MIB, MIB, 4 * MIB, 256),
    }
)
"""By JAX's name of the chip version."""

USABLE_VMEM = 0.75
"""The part of VMEM the budget fills: the compiler needs the rest for values between operations."""
USABLE_SMEM = 0.75
MAX_BLOCK_TOKENS = 512


@dataclass(frozen=True)
class BlockSizes:
    """Static sizes of one kernel call.

    Attributes:
        q_tokens: query tokens of a block.
        kv_tokens: keys of a buffer; a multiple of the page.
        vmem_bytes: the limit to tell the compiler.
    """

    q_tokens: int
    kv_tokens: int
    vmem_bytes: int


def current_chip() -> Chip:
    """The chip that is being traced for: of the mesh in context, or of the default device.

    Raises:
        ConfigError: it is no TPU, or one this table does not know.
    """
    try:
        version = str(pltpu.get_tpu_info().chip_version)
    except Exception as error:
        raise ConfigError(f"the TPU attention kernel needs a TPU: {error}") from error
    if version not in CHIPS:
        raise ConfigError(f"the TPU attention kernel does not know the chip {version} ({', '.join(CHIPS)})")
    return CHIPS[version]


def vmem_bytes(units: HeadUnits, sizes: BlockSizes, q_dtype: jnp.dtype, kv_dtype: jnp.dtype) -> int:
    """Bytes of all buffers of an attention call: what the pipeline doubles, counted twice."""
    q_bytes, kv_bytes = jnp.dtype(q_dtype).itemsize, jnp.dtype(kv_dtype).itemsize
    tiles = lane_tiles(units.num_kv_heads, units.head_dim)
    rows = units.num_units * units.num_rows(sizes.q_tokens)
    k_lanes, v_lanes = units.keys.num_tiles * LANES, units.values.num_tiles * LANES
    token = tiles * LANES * kv_bytes
    buffers = 2 * sizes.kv_tokens * token
    pipelined = 2 * rows * (k_lanes * q_bytes + v_lanes * q_bytes + 2 * LANES * 4)  # q, out, slopes, sinks
    state = rows * ((v_lanes + 2 * LANES) * 4 + k_lanes * q_bytes)  # acc, peak, total, queries laid out
    height = -(-tiles // SUBLANES) * SUBLANES
    writes = LANES * 4 * (tiles * SUBLANES + 3 * height)  # the written group, a new token twice and once wide
    scores = 4 * units.num_rows(sizes.q_tokens) * max(sizes.kv_tokens, LANES) * 4
    return buffers + pipelined + state + writes + scores


def choose(
    chip: Chip,
    units: HeadUnits,
    page_size: int,
    q_dtype: jnp.dtype,
    kv_dtype: jnp.dtype,
    num_tokens: int,
    pages_per_seq: int,
) -> BlockSizes:
    """The largest blocks that fit the chip.

    Args:
        chip: see :data:`CHIPS`.
        units: heads; one KV head a unit means prefill.
        page_size: tokens of a page.
        q_dtype: dtype of the queries as the kernel takes them.
        kv_dtype: dtype of the pages.
        num_tokens: query tokens there are at most in a block (1: decode).
        pages_per_seq: pages a sequence can have.

    Raises:
        ConfigError: not even the smallest blocks fit; the text names the sizes.
    """
    token = lane_tiles(units.num_kv_heads, units.head_dim) * LANES * jnp.dtype(kv_dtype).itemsize
    wanted = min(MAX_BLOCK_TOKENS, chip.buffer_bytes // token, pages_per_seq * page_size)
    kv_tokens = max(page_size, 1 << max(wanted, 1).bit_length() - 1)
    q_tokens = 1
    while q_tokens * 2 <= num_tokens and units.rows_per_token * q_tokens * 2 <= max(
        chip.rows, units.group * 16
    ):
        q_tokens *= 2
    limit = int(chip.vmem_bytes * USABLE_VMEM)
    while True:
        sizes = BlockSizes(q_tokens, kv_tokens, limit)
        if vmem_bytes(units, sizes, q_dtype, kv_dtype) <= limit:
            return sizes
        if q_tokens > 8:
            q_tokens //= 2
        elif kv_tokens > page_size:
            kv_tokens //= 2
        else:
            raise ConfigError(
                f"attention over {units.num_kv_heads} KV heads of {units.head_dim} with pages of {page_size} "
                f"tokens in {jnp.dtype(kv_dtype)} does not fit the TPU's {chip.vmem_bytes // MIB} MiB of "
                "VMEM: take a smaller --block-size"
            )
