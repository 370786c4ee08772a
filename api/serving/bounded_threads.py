"""Work that may never end, in threads left behind. Knows asyncio, does not know what the work is."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class BoundedThreads:
    """Runs each piece of work in a daemon thread of its own, at most ``limit`` at a time.

    Python cannot kill a thread: one that outlives ``timeout_s`` goes on, and keeps its place, until its work
    ends. So at most ``limit`` threads can hang; then all further work times out, and the rest of the server
    goes on. The threads are daemons, so that they do not keep the process from ending.
    """

    def __init__(self, limit: int, timeout_s: float, *, name: str = "request-template"):
        self._name = name
        self._places = asyncio.Semaphore(limit)
        self._timeout_s = timeout_s

    async def run(self, work: Callable[[], T]) -> T:
        """The result of ``work``, or what it raises.

        Raises:
            TimeoutError: it took too long, waiting for a place included.
        """
        async with asyncio.timeout(self._timeout_s):
            await self._places.acquire()
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
                except (
                    BaseException
                ) as error:  # a panic in native code: the place must become free all the same
                    problem = RuntimeError(f"{type(error).__name__}: {error}")
                with contextlib.suppress(RuntimeError):  # the loop has been closed
                    loop.call_soon_threadsafe(finish, value, problem)

            threading.Thread(target=run, name=self._name, daemon=True).start()
            return await result
