"""The threads of the native kernels: calls at the same time, and a core that is left to the host."""

from __future__ import annotations

import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vllm_jax.kernels.cpu.host_turn import TARGET, leave_a_core
from vllm_jax.kernels.cpu.library import available
from vllm_jax.kernels.cpu.linear import products

pytestmark = pytest.mark.skipif(not available(), reason="the native kernels are not built")

needs_helpers = pytest.mark.skipif(
    not Path("/proc/self/task").exists() or len(os.sched_getaffinity(0)) < 2,
    reason="needs two cores of Linux",
)


def multiply(rows: int = 3) -> None:
    """Checks a product that is large enough for every thread."""
    rng = np.random.default_rng()
    x, weight = (rng.standard_normal(shape).astype(np.float32) for shape in ((rows, 300), (4000, 300)))
    (y,) = products(x, [weight], dtype=jnp.dtype("float32"))
    np.testing.assert_allclose(y, x @ weight.T, rtol=1e-4, atol=1e-3)


def helpers() -> dict[int, int]:
    """Nanoseconds that each of the kernels' threads has run."""
    multiply()
    found = {}
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().startswith("vllm-jax-kern"):
            found[int(task.name)] = int((task / "schedstat").read_text().split()[0])
    return found


def host_turn(microseconds: int) -> None:
    jax.block_until_ready(jax.jit(lambda x: leave_a_core(x, microseconds=microseconds))(jnp.zeros(1)))


def test_calls_from_several_threads_do_not_disturb_each_other() -> None:
    with ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(multiply, rows) for rows in (1, 5, 20) * 20]:
            done.result(60)


@pytest.mark.parametrize("dtype", ["int32", "float32", "bfloat16", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7, 3)])
def test_a_turn_of_the_host_changes_nothing(dtype: str, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng().integers(0, 2, shape).astype(jnp.dtype(dtype))
    y = jax.jit(lambda x: leave_a_core(x, microseconds=1))(x)
    assert y.dtype == x.dtype and y.shape == shape
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_it_is_not_in_programs_for_other_devices(platform: str) -> None:
    traced = jax.jit(lambda x: leave_a_core(x, microseconds=1)).trace(jnp.zeros(3))
    assert TARGET not in traced.lower(lowering_platforms=(platform,)).as_text()
    assert TARGET in traced.lower(lowering_platforms=("cpu",)).as_text()


@needs_helpers
def test_helpers_stay_out_while_the_host_has_its_turn() -> None:
    def ran(seconds: float = 0.1) -> set[int]:
        """The helpers that have run while products were computed."""
        time.sleep(0.01)  # those that are awake go to sleep
        before, until = helpers(), time.monotonic() + seconds
        while time.monotonic() < until:
            multiply()
        return {thread for thread, spent in helpers().items() if spent != before.get(thread)}

    # Tests that load the kernels a second time have left helpers that nobody calls.
    deadline, ours = time.monotonic() + 30, set[int]()
    while len(ours) < len(os.sched_getaffinity(0)) - 1 and time.monotonic() < deadline:
        ours |= ran()
    assert ours
    host_turn(60_000_000)
    assert ours - ran()
    host_turn(0)
    deadline = time.monotonic() + 30
    while not ours <= ran():  # on a busy machine a helper may come too late for a while
        assert time.monotonic() < deadline


@needs_helpers
def test_only_helpers_are_kept_from_a_core() -> None:
    mine = os.sched_getaffinity(0)
    assert all(os.sched_getaffinity(thread) <= mine for thread in helpers())
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            if (task / "comm").read_text().startswith("tf_"):  # XLA's
                assert os.sched_getaffinity(int(task.name)) == mine
