"""How many requests may wait: the limits behind 503. Knows counts; knows neither the engine nor HTTP.

A request is *queued* from the moment it is accepted until the first of its sequences is scheduled. A
preempted sequence has been scheduled before and counts no more: it was promised an answer.
"""

from __future__ import annotations

from collections.abc import Callable

from vllm_jax.errors import OverloadedError
from vllm_jax.sequence import Sequence


class AdmissionQueue:
    """Counts queued requests and their prompt tokens. Not thread-safe: the caller holds its lock."""

    def __init__(self, max_requests: int | None, max_tokens: int | None, on_rejection: Callable[[], None]):
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._on_rejection = on_rejection
        self._sequences: dict[str, list[Sequence]] = {}
        self._num_tokens = 0

    @property
    def limited(self) -> bool:
        """Whether there is anything to count for."""
        return self._max_requests is not None or self._max_tokens is not None

    def admit(self, key: str, sequences: list[Sequence]) -> None:
        """Counts a request, known by ``key`` from now on.

        An empty queue takes any request, else one with more tokens than the limit could never be served.

        Raises:
            OverloadedError: the queue is full; the text says which limit.
        """
        if not self.limited:
            return
        self._drop_started()
        num_tokens = sequences[0].num_prompt_tokens
        num_queued = len(self._sequences)
        if self._max_requests is not None and num_queued >= self._max_requests:
            self._refuse(f"{num_queued} requests are waiting, and --max-num-queued-reqs allows no more")
        if self._max_tokens is not None and num_queued and self._num_tokens + num_tokens > self._max_tokens:
            self._refuse(
                f"{self._num_tokens} prompt tokens are waiting, and --max-num-queued-tokens "
                f"leaves no room for {num_tokens} more"
            )
        self._sequences[key] = sequences
        self._num_tokens += num_tokens

    def leave(self, key: str) -> None:
        """The request has ended or was abandoned; unknown keys are ignored."""
        if (sequences := self._sequences.pop(key, None)) is not None:
            self._num_tokens -= sequences[0].num_prompt_tokens

    def _drop_started(self) -> None:
        started = [
            key
            for key, sequences in self._sequences.items()
            if any(seq.first_scheduled_time is not None for seq in sequences)
        ]
        for key in started:
            self.leave(key)

    def _refuse(self, why: str) -> None:
        self._on_rejection()
        raise OverloadedError(f"The server is overloaded: {why}. Try again later.")
