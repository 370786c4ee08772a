"""How many KV blocks fit, on devices that say what they have."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from vllm_jax.config import CacheConfig
from vllm_jax.errors import ConfigError
from vllm_jax.runner import memory
from vllm_jax.runner.memory import BlockBudget, host_memory_available, num_blocks

BUDGET = BlockBudget(bytes_per_block=1000, block_size=16, max_model_len=100, max_num_seqs=4)


@dataclass
class Device:
    """The part of jax.Device that is asked."""

    platform: str
    stats: dict[str, int] = field(default_factory=dict)

    def memory_stats(self) -> dict[str, int]:
        return self.stats


def test_an_accelerator_gives_what_is_left_after_weights_and_the_largest_step() -> None:
    device = Device("tpu", {"bytes_limit": 100_000, "bytes_in_use": 60_000})
    cache = CacheConfig(gpu_memory_utilization=0.9)
    assert num_blocks(cache, BUDGET, device, step_bytes=10_000) == 20
    assert num_blocks(cache, BUDGET, device, step_bytes=1_000) == 28  # four full sequences need no more
    with pytest.raises(ConfigError, match=r"--max-model-len 80 or less"):
        num_blocks(cache, BUDGET, device, step_bytes=25_000)
    with pytest.raises(ConfigError, match="smaller model"):
        num_blocks(cache, BUDGET, device, step_bytes=90_000)


def test_a_cpu_gives_at_most_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "host_memory_available", lambda: 40_000)
    assert num_blocks(CacheConfig(), BUDGET, Device("cpu"), 0) == 20
    monkeypatch.setattr(memory, "host_memory_available", lambda: 10**9)
    assert num_blocks(CacheConfig(), BUDGET, Device("cpu"), 0) == 28


def test_the_users_word_is_exact() -> None:
    device = Device("cpu")
    assert num_blocks(CacheConfig(num_gpu_blocks_override=77), BUDGET, device, 0) == 77
    assert num_blocks(CacheConfig(kv_cache_memory_bytes=9_999), BUDGET, device, 0) == 9
    with pytest.raises(ConfigError, match="needs 7"):
        num_blocks(CacheConfig(num_gpu_blocks_override=6), BUDGET, device, 0)


def test_free_host_memory_is_a_sane_number() -> None:
    assert 2**20 < host_memory_available() < 2**50


def test_the_number_of_blocks_is_the_same_although_memory_is_not(monkeypatch) -> None:
    from vllm_jax.runner import memory

    budget = BlockBudget(bytes_per_block=1000, block_size=16, max_model_len=160, max_num_seqs=10_000)
    found = set()
    for free in (20_000_000, 20_300_000, 20_400_001):
        monkeypatch.setattr(memory, "host_memory_available", lambda free=free: free)
        found.add(num_blocks(CacheConfig(), budget, Device("cpu"), 0))
    assert found == {9216}
    monkeypatch.setattr(memory, "host_memory_available", lambda: 2 * 10_500)
    assert num_blocks(CacheConfig(), budget, Device("cpu"), 0) == 10, "but one sequence always fits"
