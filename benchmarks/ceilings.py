"""What this machine can do at most: memory read bandwidth and matrix products, all cores.

    python benchmarks/ceilings.py

Prints JSON: ``read_gbs`` (GB/s), ``f32_gflops`` and ``bf16_gflops``; the best of several runs each. Bandwidth
by numpy's dot products, a thread a core, over arrays far larger than the caches; products by XLA, in the form
that is fastest there (weights ``[out, in]``, float32 accumulation).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the threads are ours

import jax
import jax.numpy as jnp
import numpy as np

ARRAY_BYTES = 1 << 28
SIZE = 2048
REPEATS = 7


def best_seconds(function: Callable[[], object]) -> float:
    function()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def read_bandwidth(threads: int) -> float:
    """Bytes a second that ``threads`` threads read together."""
    arrays = [np.ones(ARRAY_BYTES // 4, np.float32) for _ in range(2 * threads)]
    with ThreadPoolExecutor(threads) as pool:
        pairs = list(zip(arrays[::2], arrays[1::2], strict=True))
        seconds = best_seconds(lambda: list(pool.map(lambda pair: float(np.dot(*pair)), pairs)))
    return sum(array.nbytes for array in arrays) / seconds


def matmul_rate(dtype: jnp.dtype) -> float:
    """FLOPs a second of a large product."""
    key = jax.random.key(0)
    x = jax.random.normal(key, (SIZE, SIZE), dtype)
    w = jax.random.normal(key, (SIZE, SIZE), dtype)
    dims = (((1,), (1,)), ((), ()))
    product = jax.jit(lambda x, w: jax.lax.dot_general(x, w, dims, preferred_element_type=jnp.float32))
    return 2 * SIZE**3 / best_seconds(lambda: product(x, w).block_until_ready())


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    figures = {
        "cores": cores,
        "read_gbs": round(read_bandwidth(cores) / 1e9, 1),
        "f32_gflops": round(matmul_rate(jnp.dtype(jnp.float32)) / 1e9, 1),
        "bf16_gflops": round(matmul_rate(jnp.dtype(jnp.bfloat16)) / 1e9, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
