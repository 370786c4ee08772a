from __future__ import annotations

import pytest

from vllm_jax.scheduler.block_allocator import BlockAllocator, OutOfBlocksError


def test_allocation_is_all_or_nothing():
    allocator = BlockAllocator(4)
    first = allocator.allocate(3)
    assert sorted(first) == [0, 1, 2]
    with pytest.raises(OutOfBlocksError, match="2 blocks were asked for, 1 are free"):
        allocator.allocate(2)
    assert allocator.num_free == 1
    assert allocator.allocate(1) == [3]
    assert allocator.allocate(0) == []
    allocator.check_integrity()


def test_a_shared_block_is_free_after_its_last_reference():
    allocator = BlockAllocator(2)
    blocks = allocator.allocate(1)
    allocator.share(blocks)
    allocator.free(blocks)
    assert allocator.num_references(blocks[0]) == 1
    assert allocator.num_free == 1
    allocator.free(blocks)
    assert allocator.num_free == 2
    allocator.check_integrity()


def test_misuse_is_an_error():
    allocator = BlockAllocator(2)
    (block,) = allocator.allocate(1)
    allocator.free([block])
    with pytest.raises(ValueError, match="freed more often"):
        allocator.free([block])
    with pytest.raises(ValueError, match="empty and cannot be shared"):
        allocator.share([block])
    with pytest.raises(ValueError, match="only a referenced block"):
        allocator.retain(block)
    allocator.check_integrity()


def test_retained_blocks_are_evicted_last_and_oldest_first():
    allocator = BlockAllocator(5)
    evicted: list[int] = []
    allocator.on_evict = evicted.append
    a = allocator.allocate(2)
    b = allocator.allocate(1)
    for block in a + b:
        allocator.retain(block)
    allocator.free(b)
    allocator.free(a)
    assert allocator.num_free == 5
    assert allocator.num_cached == 3
    allocator.allocate(2)
    assert evicted == [], "empty blocks go first"
    assert allocator.allocate(1) == b
    assert allocator.allocate(2) == [a[1], a[0]], "the end of a chain goes before its beginning"
    assert evicted == [b[0], a[1], a[0]]
    allocator.check_integrity()


def test_sharing_a_cached_block_makes_it_the_youngest():
    allocator = BlockAllocator(2)
    a, b = allocator.allocate(2)
    for block in (a, b):
        allocator.retain(block)
        allocator.free([block])
    assert allocator.num_free_of([a, b]) == 2
    allocator.share([a])
    assert allocator.num_free_of([a, b]) == 1
    allocator.free([a])
    assert allocator.allocate(1) == [b]
    allocator.check_integrity()


def test_forgotten_blocks_become_empty():
    allocator = BlockAllocator(2)
    evicted: list[int] = []
    allocator.on_evict = evicted.append
    a, b = allocator.allocate(2)
    allocator.retain(a)
    allocator.retain(b)
    allocator.free([a])
    allocator.forget(a)
    allocator.forget(b)
    allocator.free([b])
    assert allocator.num_cached == 0
    allocator.allocate(2)
    assert evicted == []
    allocator.check_integrity()
