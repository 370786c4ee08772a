"""How many responses are made in the background, without anybody who waits for them."""

from __future__ import annotations

from vllm_jax.errors import OverloadedError


class BackgroundPlaces:
    """At most ``limit`` at a time: no open connection bounds them, as it does other requests."""

    def __init__(self, limit: int):
        self._limit = limit
        self._taken = 0

    def take(self) -> None:
        """Takes a place. Raises OverloadedError: there is none."""
        if self._taken >= self._limit:
            raise OverloadedError(
                f"{self._taken} responses are being made in the background, and "
                f"--max-background-responses allows no more. Try again later, or without background."
            )
        self._taken += 1

    def give_back(self) -> None:
        """The response has ended, or never began."""
        self._taken -= 1
