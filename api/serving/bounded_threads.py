"""Work that may never end, in threads left behind. Knows asyncio, does not know what the work is."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from vllm_jax.errors import OverloadedError

T = TypeVar("T")

MAX_WAITING = 256
"""Pieces of work that may wait for a place."""


class BoundedThreads:
    """Runs each piece of work in a daemon thread of its own, at most ``limit`` at a time.

    Python cannot kill a thread: one that outlives ``timeout_s`` goes on, and keeps its place, until its work
    ends. So at most ``limit`` threads can hang; then there is no place for further work, and the rest of the
    server goes on. The threads are daemons, so that they do not keep the process from ending.
    """

    def __init__(
        self,
        limit: int,
        timeout_s: float,
        *,
        name: str = "request-template",
        max_waiting: int = MAX_WAITING,
    ):
        self._name = name
        self._places = asyncio.Semaphore(limit)
        self._timeout_s = timeout_s
        self._max_waiting = max_waiting
        self._waiting = 0

    async def run(self, work: Callable[[], T]) -> T:
        """The result of ``work``, or what it raises.

        Raises:
            OverloadedError: too much other work waits, or no place has come free within the time.
            TimeoutError: the work itself took too long.
        """
        await self._take_place()
        async with asyncio.timeout(self._timeout_s):
            loop = asyncio.get_running_loop()
            result: asyncio.Future[T] = loop.create_future()

            def finish(value: T | None, error: BaseException | None) -> None:
                self._places.release()
                if result.done():  # nobody waits any more
                    return
                if error is not None:
                    result.set_exception(error)
                else:
                    result.set_result(value)  # type: ignore[arg-type]

            def run() -> None:
                value, problem = None, None
                try:
                    value = work()
                except Exception as error:
                    problem = error
                except BaseException as error:
                    # A panic in native code: the place must become free all the same.
                    problem = RuntimeError(f"{type(error).__name__}: {error}")
                with contextlib.suppress(RuntimeError):  # the loop has been closed
                    loop.call_soon_threadsafe(finish, value, problem)

            threading.Thread(target=run, name=self._name, daemon=True).start()
            return await result

    async def _take_place(self) -> None:
        if self._places.locked() and self._waiting >= self._max_waiting:
            raise OverloadedError(f"{self._waiting} requests wait for a {self._name} thread already.")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._places.acquire()
        except TimeoutError:
            raise OverloadedError(
                f"No {self._name} thread has come free within {self._timeout_s:g} s: all are busy with other "
                "requests."
            ) from None
        finally:
            self._waiting -= 1
