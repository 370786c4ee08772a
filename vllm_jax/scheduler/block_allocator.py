"""Blocks (pages of the KV cache) and who holds them.

Knows reference counts and the order in which free blocks are handed out. Does not know what is in a block:
the prefix cache marks the blocks whose content is worth keeping, and is told when one is overwritten.

    empty  ── allocate ──▶ referenced ── last free ──▶ empty       content not retained
      ▲                     ▲      │
      │ forget        share │      └─── last free ──▶ cached       content retained
      └──────────────── cached ── allocate (evicts the oldest) ──▶ referenced

Empty and cached blocks are both *free*. Empty ones are handed out first; of the cached ones the block that
became free first goes first (LRU).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from vllm_jax.errors import VllmJaxError


class OutOfBlocksError(VllmJaxError, RuntimeError):
    """More blocks were asked for than are free; nothing was allocated."""


class BlockAllocator:
    """``num_blocks`` blocks, numbered from 0. Every operation is O(1) a block."""

    def __init__(self, num_blocks: int):
        self.num_blocks = num_blocks
        self.on_evict: Callable[[int], None] | None = None
        """Called with each retained block whose content is about to be overwritten."""
        self._references = [0] * num_blocks
        self._retained = bytearray(num_blocks)
        self._empty = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # in the order of becoming free

    @property
    def num_free(self) -> int:
        """Blocks that ``allocate`` could hand out, those with retained content included."""
        return len(self._empty) + len(self._cached)

    @property
    def num_cached(self) -> int:
        """Free blocks with retained content."""
        return len(self._cached)

    def num_references(self, block: int) -> int:
        """How many sequences hold ``block``."""
        return self._references[block]

    def retains(self, block: int) -> bool:
        """Whether the content of ``block`` outlives its last reference."""
        return bool(self._retained[block])

    def num_free_of(self, blocks: Iterable[int]) -> int:
        """How many of ``blocks`` are free, that is: by how much sharing them lowers ``num_free``."""
        references = self._references
        return sum(1 for block in blocks if not references[block])

    def allocate(self, count: int) -> list[int]:
        """Takes ``count`` free blocks, each with one reference and no retained content.

        Raises:
            OutOfBlocksError: fewer than ``count`` are free; the allocator is unchanged.
        """
        if count > self.num_free:
            raise OutOfBlocksError(f"{count} blocks were asked for, {self.num_free} are free")
        taken = []
        for _ in range(count):
            block = self._empty.pop() if self._empty else self._evict_oldest()
            self._references[block] = 1
            taken.append(block)
        return taken

    def share(self, blocks: Iterable[int]) -> None:
        """Adds a reference to each of ``blocks``; they must be referenced or cached.

        Raises:
            ValueError: a block is empty: there is nothing in it to share.
        """
        for block in blocks:
            if not self._references[block]:
                if block not in self._cached:
                    raise ValueError(f"block {block} is empty and cannot be shared")
                del self._cached[block]
            self._references[block] += 1

    def free(self, blocks: Sequence[int]) -> None:
        """Drops one reference of each of ``blocks``, a sequence's blocks in order.

        The last block is freed first, so that the end of a chain is evicted before its beginning (the
        beginning is useful without the end, not the other way round).

        Raises:
            ValueError: a block has no reference left to drop.
        """
        references = self._references
        for block in reversed(blocks):
            left = references[block] - 1
            if left > 0:
                references[block] = left
                continue
            if left < 0:
                raise ValueError(f"block {block} is freed more often than it was taken")
            references[block] = 0
            if self._retained[block]:
                self._cached[block] = None
            else:
                self._empty.append(block)

    def retain(self, block: int) -> None:
        """Keeps the content of the referenced ``block`` after its last reference is dropped."""
        if not self._references[block]:
            raise ValueError(f"block {block} is free; only a referenced block's content can be retained")
        self._retained[block] = True

    def forget(self, block: int) -> None:
        """Undoes ``retain``; a cached block becomes empty. Does not call ``on_evict``."""
        self._retained[block] = False
        if block in self._cached:
            del self._cached[block]
            self._empty.append(block)

    def check_integrity(self) -> None:
        """Raises AssertionError where the books do not balance. O(num_blocks)."""
        empty, cached = set(self._empty), set(self._cached)
        assert len(empty) == len(self._empty), "a block is twice on the empty list"
        assert not empty & cached, "a block is empty and cached"
        for block, count in enumerate(self._references):
            assert count >= 0, f"block {block} has {count} references"
            assert (count == 0) == (block in empty or block in cached), (
                f"block {block} is leaked or held free"
            )
            assert not (block in empty and self._retained[block]), f"empty block {block} is retained"
            assert not (block in cached and not self._retained[block]), f"block {block} cached, not retained"

    def _evict_oldest(self) -> int:
        block, _ = self._cached.popitem(last=False)
        self._retained[block] = False
        if self.on_evict is not None:
            self.on_evict(block)
        return block
