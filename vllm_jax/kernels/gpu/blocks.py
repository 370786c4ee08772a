"""Block sizes of the GPU kernels: every number that is a choice stands here. Knows no arrays.

Sizes are powers of two, as Triton wants them. They were chosen from what the compiler reports for sm_90a and
sm_80 (registers, spills, shared memory), see ``docs/kernels.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

MULTIPROCESSORS = 132
"""Of an H100 or H200; an A100 has 108."""
BLOCKS_PER_MULTIPROCESSOR = 4
"""Decode blocks to start per multiprocessor, so that some load while others reduce."""
MAX_SPLITS = 64
"""Parts of one context: what the combining kernel reads in one go."""
LONGEST_CHUNK = 8192
"""Keys of one part at most (up to MAX_SPLITS), so that a long row does not outlast all others."""
MIN_CHUNK = 256
"""Keys of one part at least, below which combining costs more than it saves."""


def power_of_two(n: int) -> int:
    """The smallest power of two that is not below ``n``."""
    return 1 << max(n - 1, 0).bit_length()


@dataclass(frozen=True)
class KernelBlocks:
    """How one kernel cuts its work.

    Attributes:
        rows: query rows M of a block: tokens times query heads of one KV head.
        heads: query heads of a block; ``rows // heads`` tokens fit.
        keys: keys C of one turn of the inner loop.
        num_warps: warps a block.
        num_stages: loads in flight, in turns of the inner loop.
    """

    rows: int
    heads: int
    keys: int
    num_warps: int
    num_stages: int

    @property
    def tokens(self) -> int:
        """Query tokens of a block."""
        return self.rows // self.heads


@dataclass(frozen=True)
class CallShape:
    """What is static about a kernel call, beside how it scores.

    Attributes:
        blocks: how the work is cut.
        num_kv_heads: KV heads.
        group: query heads of each.
        head_dim: features of a head.
        page_size: tokens of a page.
    """

    blocks: KernelBlocks
    num_kv_heads: int
    group: int
    head_dim: int
    page_size: int

    @property
    def features(self) -> int:
        """The head dim, rounded up to a power of two (F)."""
        return power_of_two(self.head_dim)

    @property
    def head_blocks(self) -> int:
        """Blocks that the query heads of a KV head take."""
        return -(-self.group // self.blocks.heads)

    @property
    def programs(self) -> int:
        """Blocks that all heads take."""
        return self.num_kv_heads * self.head_blocks


def decode_blocks(group: int, features: int, *, exact: bool) -> KernelBlocks:
    """Blocks of the decode kernel: one token, up to 64 of the ``group`` query heads of a KV head.

    Args:
        group: query heads to a KV head.
        features: head dim, rounded up to a power of two.
        exact: whether products are of float32.
    """
    most = 64 if not exact else 16 if features > 128 else 32
    rows = min(max(power_of_two(group), 16), most)  # a tensor core multiplies 16 rows at least
    keys = min(max(8192 // features, 32), 128)
    if exact:
        return KernelBlocks(rows, min(group, rows), keys // 2, 8 if rows * features > 1024 else 4, 2)
    return KernelBlocks(
        rows, min(group, rows), keys, 8 if (rows > 16 and features > 64) or rows > 32 else 4, 3
    )


def prefill_blocks(group: int, features: int, num_tokens: int, *, exact: bool) -> KernelBlocks:
    """Blocks of the prefill kernel; arguments as above, and the tokens of the whole step."""
    if exact:
        most, keys, warps, stages = 16 if features > 128 else 32, 32, 8 if features > 64 else 4, 2
    elif features <= 128:
        most, keys, warps, stages = 128, 64, 8, 3
    else:
        most, keys, warps, stages = 64, 32, 8, 2
    heads = min(group, most)
    rows = min(most, max(power_of_two(heads * num_tokens), 16))
    return KernelBlocks(rows, heads, keys, warps if rows == most else 4, stages)


def decode_splits(programs: int, capacity: int) -> int:
    """Parts into which a decode step may cut a context: a power of two.

    Args:
        programs: blocks there are without splitting: rows times KV heads (times groups of heads).
        capacity: keys the page table has room for.
    """
    for_the_card = -(-MULTIPROCESSORS * BLOCKS_PER_MULTIPROCESSOR // programs)
    for_long_rows = -(-capacity // LONGEST_CHUNK)
    useful = -(-capacity // MIN_CHUNK)
    return power_of_two(min(max(for_the_card, for_long_rows), useful, MAX_SPLITS))
