"""The waiting queue: sequences in ``Sequence.order``, smallest first.

Knows that order and nothing else. Both policies are an order: first come first served numbers the
sequences, priority puts the priority and the arrival before the number. A preempted sequence keeps its
order, so that it comes back in front of everything that arrived after it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from vllm_jax.sequence import Order, Sequence


class WaitingQueue:
    """A heap with removal. ``push`` and ``pop`` are O(log n), ``peek`` and ``remove`` amortised likewise."""

    def __init__(self) -> None:
        self._heap: list[tuple[Order, Sequence]] = []
        self._members: set[Sequence] = set()

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, seq: Sequence) -> bool:
        return seq in self._members

    def __iter__(self) -> Iterator[Sequence]:
        """The sequences in no particular order."""
        return iter(self._members)

    def push(self, seq: Sequence) -> None:
        """Adds ``seq`` at its place. Raises ValueError where it waits already."""
        if seq in self._members:
            raise ValueError(f"sequence {seq.seq_id} waits already")
        self._members.add(seq)
        heapq.heappush(self._heap, (seq.order, seq))

    def peek(self) -> Sequence:
        """The first sequence. Raises IndexError where there is none."""
        while self._heap[0][1] not in self._members:
            heapq.heappop(self._heap)
        return self._heap[0][1]

    def pop(self) -> Sequence:
        """Removes and returns the first sequence. Raises IndexError where there is none."""
        seq = self.peek()
        heapq.heappop(self._heap)
        self._members.remove(seq)
        return seq

    def remove(self, seq: Sequence) -> None:
        """Takes ``seq`` out. Raises KeyError where it does not wait.

        Its heap entry stays until it comes up, or until such entries are the greater part.
        """
        self._members.remove(seq)
        if len(self._heap) > 2 * len(self._members) + 16:
            self._heap = [entry for entry in self._heap if entry[1] in self._members]
            heapq.heapify(self._heap)
