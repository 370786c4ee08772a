"""The linear layers of a decode step on a CPU: the native kernel beside XLA, and beside the machine.

    PYTHONPATH=. python benchmarks/kernels/cpu_linear.py

For each dtype and number of rows a chain of products whose weights are too many for any cache: from 768
features to 2048 and back, as in the MLPs of a 100M-parameter Llama, with nothing in between (an operation of
XLA's between two products would wake its threads, which take the cores from the kernel's). The two forms
alternate, times are medians, so that a machine that is busy in between slows both. GB/s are the weights'
bytes alone; the ceilings are those of ``benchmarks/ceilings.py``, measured in the same run. ``gain`` is XLA's
time over the native one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.ceilings import matmul_rate, read_bandwidth
from benchmarks.roofline import commit
from vllm_jax.kernels.cpu.library import describe
from vllm_jax.layers import linear as linear_module
from vllm_jax.layers.linear import linear

WIDTH, INNER = 768, 2048


def chain(x: jax.Array, *weights: jax.Array) -> jax.Array:
    """``x [rows, WIDTH]`` after a product with each weight."""
    for weight in weights:
        x = linear(x, weight)
    return x


def compiled(native: bool, x: jax.Array, weights: list[jax.Array]) -> Callable[..., jax.Array]:
    """The chain in one form: it is chosen while the program is traced."""
    chosen = linear_module.available
    linear_module.available = lambda: native
    try:
        fresh = partial(chain)  # jax.jit remembers what it traced, by function
        return jax.jit(fresh).lower(x, *weights).compile()
    finally:
        linear_module.available = chosen


def medians(forms: list[Callable[..., jax.Array]], runs: int, *operands: jax.Array) -> list[float]:
    """Seconds of each form, run in turns."""
    times: list[list[float]] = [[] for _ in forms]
    for _ in range(runs + 1):
        for form, taken in zip(forms, times, strict=True):
            started = time.perf_counter()
            form(*operands).block_until_ready()
            taken.append(time.perf_counter() - started)
    return [statistics.median(taken[1:]) for taken in times]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128, 512])
    parser.add_argument("--megabytes", type=int, default=100, help="of weights in a chain")
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    read = read_bandwidth(cores)
    print(f"jax {jax.__version__}, commit {commit()}, {cores} cores, kernels: {describe()}\n")
    print("| dtype | rows | XLA ms | native ms | gain | native GB/s | of read | GFLOP/s | of matmul |")
    print("|---|---|---|---|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    for dtype in (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)):
        rate = matmul_rate(dtype)
        count = arguments.megabytes * 10**6 // (2 * WIDTH * INNER * dtype.itemsize)
        shapes = [(INNER, WIDTH), (WIDTH, INNER)]  # [out, in]
        drawn = [
            jnp.array(rng.standard_normal(shape, np.float32) / shape[1] ** 0.5, dtype) for shape in shapes
        ]
        weights = [jnp.array(weight) for _ in range(count) for weight in drawn]
        size, flops = sum(w.nbytes for w in weights), 2 * sum(w.size for w in weights)
        for rows in arguments.rows:
            x = jnp.array(rng.standard_normal((rows, WIDTH), np.float32), dtype)
            forms = [compiled(native, x, weights) for native in (False, True)]
            xla, ours = medians(forms, arguments.runs, x, *weights)
            bandwidth, speed = size / ours, rows * flops / ours
            print(
                f"| {dtype.name} | {rows} | {xla * 1e3:.2f} "
                f"| {ours * 1e3:.2f} | {xla / ours:.2f} | {bandwidth / 1e9:.1f} | {bandwidth / read:.0%} "
                f"| {speed / 1e9:.0f} | {speed / rate:.0%} |",
                flush=True,
            )
    print(f"\nread {read / 1e9:.1f} GB/s on {cores} threads")


if __name__ == "__main__":
    main()
