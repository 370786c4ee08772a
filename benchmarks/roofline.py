"""What an accelerator can do at most, measured: the rates that times of kernels and steps are held against.

Every time is a median over runs of a program that repeats an operation on the device, so that ten
microseconds are not measured as the hundred that a launch from Python takes.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

RUNS = 7


def seconds(function: Callable[..., Any], *arguments: Any, repeats: int) -> float:
    """Median time of one of the ``repeats`` operations in ``function``; its first run is not counted."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - started)
    return statistics.median(times) / repeats


def repeated(step: Callable[..., Any], repeats: int, donate: tuple[int, ...] = ()) -> Callable[..., Any]:
    """``(x, *rest)`` -> x after ``x = step(x, *rest)``, repeated: each needs the last, none is left out."""
    return jax.jit(
        lambda x, *rest: jax.lax.fori_loop(0, repeats, lambda _, x: step(x, *rest), x), donate_argnums=donate
    )


def copy_bandwidth(gigabytes: float = 4.0) -> float:
    """Bytes a second, read and written both counted."""
    array = jnp.zeros(int(gigabytes * 2**30) // 4, jnp.int32)
    return 2 * array.nbytes / seconds(repeated(lambda x: x + 1, 8), array, repeats=8)


def matmul_rate(size: int = 8192) -> float:
    """FLOPs a second of a square bfloat16 product of random numbers."""
    a = jax.random.normal(jax.random.key(1), (size, size), jnp.bfloat16) / size**0.5
    return 2 * size**3 / seconds(repeated(jnp.matmul, 8), a, a, repeats=8)


def milliseconds(value: float | str | None) -> str:
    return f"{value * 1e3:.3f}" if isinstance(value, float) else str(value)


def commit() -> str:
    """Of the working directory's repository."""
    said = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or "unknown"
