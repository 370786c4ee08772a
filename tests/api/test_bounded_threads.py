"""Work that hangs keeps its place and nothing else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest
from server_process import REPO

from api.serving.bounded_threads import BoundedThreads
from vllm_jax.errors import OverloadedError


def test_results_and_errors_come_back() -> None:
    async def scenario() -> None:
        threads = BoundedThreads(2, 10)
        assert await asyncio.gather(*(threads.run(lambda i=i: i * i) for i in range(10))) == [
            i * i for i in range(10)
        ]
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0)

    asyncio.run(scenario())


def test_a_panic_keeps_no_place() -> None:
    class Panic(BaseException):
        pass

    def panic() -> None:
        raise Panic("native code")

    async def scenario() -> None:
        threads = BoundedThreads(1, 10)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="Panic: native code"):
                await threads.run(panic)
        assert await threads.run(lambda: 1) == 1

    asyncio.run(scenario())


def test_hung_work_is_bounded_and_its_place_comes_back_when_it_ends() -> None:
    release, started = threading.Event(), []

    def hang() -> None:
        started.append(1)
        release.wait(30)

    async def scenario() -> None:
        threads = BoundedThreads(2, 0.2)
        results = await asyncio.gather(*(threads.run(hang) for _ in range(5)), return_exceptions=True)
        assert [type(r) for r in results] == [TimeoutError] * 2 + [OverloadedError] * 3
        assert len(started) == 2
        with pytest.raises(OverloadedError, match=r"within 0\.2 s"):
            await threads.run(lambda: 1)
        release.set()
        while True:
            try:
                assert await threads.run(lambda: 1) == 1
                return
            except OverloadedError:
                continue

    asyncio.run(scenario())


def test_few_may_wait() -> None:
    release = threading.Event()

    async def scenario() -> None:
        threads = BoundedThreads(1, 30, max_waiting=2)
        tasks = [asyncio.create_task(threads.run(release.wait)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="2 requests wait"):
            await threads.run(release.wait)
        release.set()
        assert await asyncio.gather(*tasks) == [True] * 3
        assert await threads.run(lambda: 1) == 1

    asyncio.run(scenario())


def test_hung_work_does_not_keep_the_process() -> None:
    program = (
        "import asyncio, threading\n"
        "from api.serving.bounded_threads import BoundedThreads\n"
        "try:\n    asyncio.run(BoundedThreads(1, 0.1).run(threading.Event().wait))\n"
        "except TimeoutError:\n    print('timed out')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "timed out\n", "")
