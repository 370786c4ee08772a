"""Responses that clients may come back to, in memory. Knows owners, age and size; knows nothing of models.

What is stored is bounded in number, in bytes and in age: the response that was used longest ago goes first.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from api.errors import ApiError, printable
from api.protocol.responses import Response


class Run(Protocol):
    """What the store needs to know of the work behind a response."""

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        ...

    def abandon(self) -> None:
        """Nobody can ask for the response any more: ends what has not ended."""
        ...


@dataclass
class StoredResponse:
    """A response with the items it answered, its own only; ``owner`` is who may see it.

    ``run`` is the work behind a background response, for as long as it is stored.
    """

    response: Response
    input: list[dict[str, Any]]
    owner: bytes
    run: Run | None = None
    size: int = 0
    used: float = field(default_factory=time.monotonic)


class ResponseStore:
    """At most ``entries`` responses, of ``max_bytes`` together, each for ``ttl_s`` after its last use."""

    def __init__(
        self, *, entries: int, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ):
        self._most = entries
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._stored: OrderedDict[str, StoredResponse] = OrderedDict()
        self._bytes = 0

    @property
    def enabled(self) -> bool:
        """Whether anything is ever stored."""
        return self._most > 0

    def __len__(self) -> int:
        return len(self._stored)

    def put(self, stored: StoredResponse) -> None:
        """Stores a response, or stores it anew after it has changed; others may go."""
        self._drop(stored.response.id)
        stored.used = self._clock()
        self._stored[stored.response.id] = stored
        self._weigh(stored)

    def measure(self, stored: StoredResponse) -> None:
        """Takes note of what a response has grown to; others may go. One that is not stored stays away."""
        if self._stored.get(stored.response.id) is stored:
            self._bytes -= stored.size
            self._weigh(stored)

    def _weigh(self, stored: StoredResponse) -> None:
        events = 0 if stored.run is None else stored.run.size
        stored.size = len(stored.response.model_dump_json()) + len(repr(stored.input)) + events
        self._bytes += stored.size
        self._evict()

    def get(self, response_id: str, owner: bytes, param: str | None = None) -> StoredResponse:
        """The response of that id.

        Raises:
            ApiError: 404, there is none, or it is somebody else's; ``param`` is the error's.
        """
        self._evict()
        stored = self._stored.get(response_id)
        if stored is None or stored.owner != owner:
            shown = printable(response_id, 100)
            raise ApiError(
                404,
                f"Response with id '{shown}' not found. It was not stored, has been deleted, or is too old.",
                type="NotFoundError",
                param=param,
            )
        stored.used = self._clock()
        self._stored.move_to_end(response_id)
        return stored

    def item(self, item_id: str, owner: bytes) -> dict[str, Any]:
        """An item of a stored response, of its input or its output.

        Raises:
            ApiError: 404, there is none of that id, or it is somebody else's.
        """
        self._evict()
        for stored in reversed(self._stored.values()):
            if stored.owner != owner:
                continue
            output = (item for item in stored.response.output if item.id == item_id)
            found = next((item.model_dump(exclude_none=True) for item in output), None)
            found = found or next((item for item in stored.input if item.get("id") == item_id), None)
            if found is not None:
                stored.used = self._clock()
                self._stored.move_to_end(stored.response.id)
                return found
        shown = printable(item_id, 100)
        raise ApiError(
            404,
            f"There is no item with the id '{shown}' in a stored response.",
            type="NotFoundError",
            param="input",
        )

    def conversation(self, response_id: str | None, owner: bytes) -> list[dict[str, Any]]:
        """All items up to and with a response: inputs and outputs of the responses it goes back to.

        Raises:
            ApiError: 404, a response of the chain is not there.
        """
        parts: list[list[dict[str, Any]]] = []
        while response_id is not None:
            stored = self.get(response_id, owner, "previous_response_id")
            output = [item.model_dump(exclude_none=True) for item in stored.response.output]
            parts.append([*stored.input, *output])
            response_id = stored.response.previous_response_id
        return [item for part in reversed(parts) for item in part]

    def delete(self, response_id: str, owner: bytes) -> StoredResponse:
        """Forgets a response. Raises ApiError (404)."""
        stored = self.get(response_id, owner)
        self._drop(response_id)
        return stored

    def _drop(self, response_id: str) -> None:
        if (stored := self._stored.pop(response_id, None)) is not None:
            self._bytes -= stored.size

    def _evict(self) -> None:
        oldest = self._clock() - self._ttl_s
        while self._stored:
            first = next(iter(self._stored.values()))
            if len(self._stored) <= self._most and self._bytes <= self._max_bytes and first.used > oldest:
                return
            self._drop(first.response.id)
            if first.run is not None:
                first.run.abandon()
