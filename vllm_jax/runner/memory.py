"""How many KV blocks fit, and the host's memory. Knows devices and bytes; knows no model beyond the bytes a
block takes.

On an accelerator the answer comes from the device and the compiler: what the device has, times
``gpu_memory_utilization``, minus what is in use (the weights) and minus what the compiler says the largest
step needs besides its arguments. On a CPU the memory belongs to the whole machine, so the cache takes what
``max_num_seqs`` full sequences could ever use, and at most half of what is free.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass

import jax

from vllm_jax.config import CacheConfig
from vllm_jax.errors import ConfigError

_CPU_SHARE = 0.5


@dataclass(frozen=True)
class BlockBudget:
    """The question: a block's size in bytes and tokens, and the limits a full load would reach."""

    bytes_per_block: int
    block_size: int
    max_model_len: int
    max_num_seqs: int

    @property
    def blocks_per_seq(self) -> int:
        """Blocks of one sequence of ``max_model_len`` tokens."""
        return -(-self.max_model_len // self.block_size)


def host_memory_available() -> int:
    """Bytes of host memory that can be had without swapping."""
    try:
        with open("/proc/meminfo") as meminfo:
            for line in meminfo:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def return_freed_memory() -> None:
    """Gives the system what is freed but kept by the allocator; does nothing where that is not glibc's.

    The compiler's threads each have an arena of their own: what one has freed, the next does not reuse.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _steady(blocks: int, budget: BlockBudget) -> int:
    """Down to four significant bits, as long as one sequence fits.

    Free memory is never the same twice, and programs are compiled for the number of blocks: without this,
    each start would compile them anew.
    """
    unit = 1 << max(blocks.bit_length() - 4, 0)
    return max(blocks // unit * unit, min(blocks, budget.blocks_per_seq))


def num_blocks(cache: CacheConfig, budget: BlockBudget, device: jax.Device, step_bytes: int) -> int:
    """Number of KV blocks to allocate on ``device``.

    ``step_bytes`` is the temporary memory of the largest compiled step; it matters on accelerators only.

    Raises:
        ConfigError: not even one sequence of ``max_model_len`` tokens fits; the text says what would.
    """
    enough = budget.max_num_seqs * budget.blocks_per_seq
    if cache.num_gpu_blocks_override is not None:
        blocks = cache.num_gpu_blocks_override
    elif cache.kv_cache_memory_bytes is not None:
        blocks = cache.kv_cache_memory_bytes // budget.bytes_per_block
    elif device.platform == "cpu":
        blocks = min(
            enough, _steady(int(host_memory_available() * _CPU_SHARE) // budget.bytes_per_block, budget)
        )
    else:
        stats = device.memory_stats() or {}
        limit = int(stats.get("bytes_limit", 0) * cache.gpu_memory_utilization)
        free = limit - int(stats.get("bytes_in_use", 0)) - step_bytes
        blocks = min(enough, _steady(max(free, 0) // budget.bytes_per_block, budget))
    if blocks < budget.blocks_per_seq:
        fits = blocks * budget.block_size
        raise ConfigError(
            f"the KV cache holds {blocks} blocks of {budget.block_size} tokens, but one sequence of "
            f"--max-model-len {budget.max_model_len} needs {budget.blocks_per_seq}. "
            + (f"Start with --max-model-len {fits} or less" if fits else "Start with a smaller model")
            + ", or give the cache more memory (--gpu-memory-utilization, --kv-cache-memory-bytes)."
        )
    return blocks
