"""Paged attention on a CPU: the native kernel beside the XLA form, and beside what the machine can do.

    PYTHONPATH=. python benchmarks/kernels/cpu_attention.py                     all shapes, as a table
    PYTHONPATH=. python benchmarks/kernels/cpu_attention.py --dtype bfloat16 --heads 32 8 128
    PYTHONPATH=. python benchmarks/kernels/cpu_attention.py --only "decode 16"

A program runs the operation for several layers with pages of their own, as a model's step does: in decode
most keys come from memory then, and the launch from Python is shared. The implementations take turns; each
time is the median of the rounds. Bytes are the visible keys and values, FLOPs two products for each pair of a
query and a key that it sees; the rates they are compared with (reading memory, a float32 matrix product) are
measured in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vllm_jax.kernels.attention import kv_pages_dtype, kv_pages_shape, paged_attention
from vllm_jax.kernels.cpu import library
from vllm_jax.kernels.metadata import AttentionMetadata

ROUNDS = 5
SECONDS = 0.25
"""Of measuring, for each implementation and shape: as many runs as fit."""
LAYERS = 12
CACHE_BYTES = 2 << 30
"""Of pages at most; there are fewer layers then."""


@dataclass(frozen=True)
class Case:
    """A shape: ``rows`` sequences with ``q_len`` new tokens each, at the end of ``context`` tokens."""

    rows: int
    q_len: int
    context: int
    heads: int
    kv_heads: int
    head_dim: int
    page: int
    dtype: Any

    @property
    def name(self) -> str:
        return f"{'decode' if self.q_len == 1 else f'prefill {self.q_len} of'} {self.rows} x {self.context}"

    @property
    def tokens(self) -> int:
        return self.rows * self.q_len

    @property
    def pages_per_row(self) -> int:
        return -(-self.context // self.page)

    @property
    def bytes(self) -> int:
        """Of the visible keys and values."""
        return self.rows * self.context * 2 * self.kv_heads * self.head_dim * self.dtype.itemsize

    @property
    def flops(self) -> int:
        """Two products for every pair of a query and a key that it sees."""
        pairs = self.rows * (self.q_len * self.context - self.q_len * (self.q_len - 1) // 2)
        return 4 * pairs * self.heads * self.head_dim

    @property
    def layers(self) -> int:
        return max(1, min(LAYERS, CACHE_BYTES // self.bytes))


def cases(heads: tuple[int, int, int], page: int, dtype: Any) -> list[Case]:
    make = partial(
        Case, heads=heads[0], kv_heads=heads[1], head_dim=heads[2], page=page, dtype=jnp.dtype(dtype)
    )
    decode = [make(rows, 1, context) for rows in (1, 16, 64) for context in (128, 1024, 4096)]
    return [*decode, *(make(1, length, length) for length in (128, 512, 4096)), make(4, 128, 2048)]


class Contender:
    """One implementation on one shape: owns its pages, which every run updates in place."""

    def __init__(self, case: Case, implementation: str):
        keys = jax.random.split(jax.random.key(0), 4)
        normal = partial(jax.random.normal, dtype=case.dtype)
        num_pages = case.rows * case.pages_per_row
        shape = kv_pages_shape(
            num_pages, case.page, case.kv_heads, case.head_dim, implementation=implementation
        )
        table = np.random.default_rng(0).permutation(num_pages).reshape(case.rows, -1)
        self.case = case
        self.q = normal(keys[0], (case.tokens, case.heads, case.head_dim))
        self.k = normal(keys[1], (case.tokens, case.kv_heads, case.head_dim))
        self.v = normal(keys[2], (case.tokens, case.kv_heads, case.head_dim))
        bits = np.resize(np.asarray(normal(keys[3], (1 << 20,))), int(np.prod(shape))).reshape(shape)
        stored = bits.view(kv_pages_dtype(case.dtype, implementation=implementation))
        self.layers = [jnp.array(stored) for _ in range(case.layers)]
        self.metadata = AttentionMetadata(
            jnp.asarray(table, jnp.int32),
            jnp.full(case.rows, case.context, jnp.int32),
            jnp.arange(case.rows + 1, dtype=jnp.int32) * case.q_len,
            case.q_len == 1,
            implementation,
        )

        def step(q: jax.Array, k: jax.Array, v: jax.Array, layers: list[jax.Array], metadata: Any) -> Any:
            for i, pages in enumerate(layers):
                q, layers[i] = paged_attention(
                    q, k, v, pages, metadata, scale=case.head_dim**-0.5, implementation=implementation
                )
            return q, layers

        self.step = jax.jit(step, donate_argnums=3)
        self.out = self.run()

    def run(self) -> jax.Array:
        out, self.layers = self.step(self.q, self.k, self.v, self.layers, self.metadata)
        return jax.block_until_ready(out)

    def seconds(self) -> float:
        """Of one layer: the median over some runs."""
        times: list[float] = []
        until = time.perf_counter() + SECONDS / ROUNDS
        while not times or time.perf_counter() < until:
            started = time.perf_counter()
            self.run()
            times.append((time.perf_counter() - started) / self.case.layers)
        return statistics.median(times)


def best_of(function: Callable[[], Any], runs: int = 7) -> float:
    """Seconds of the fastest run: what the machine can do."""
    jax.block_until_ready(function())
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - started)
    return min(times)


def read_bandwidth() -> float:
    """Bytes a second of a product of a matrix with a vector."""
    matrix, vector = jnp.ones((1 << 14, 1 << 13), jnp.float32), jnp.ones(1 << 13, jnp.float32)
    product = jax.jit(lambda m, x: m @ x)
    return matrix.nbytes / best_of(lambda: product(matrix, vector))


def matmul_rate(size: int = 2048) -> float:
    """FLOPs a second of a square float32 product."""
    matrix = jax.random.normal(jax.random.key(1), (size, size))
    product = jax.jit(lambda m: m @ m)
    return 2 * size**3 / best_of(lambda: product(matrix))


def row(case: Case, bandwidth: float, rate: float) -> str:
    contenders = {name: Contender(case, name) for name in ("xla", "cpu")}
    error = float(
        jnp.max(
            jnp.abs(contenders["xla"].out.astype(jnp.float32) - contenders["cpu"].out.astype(jnp.float32))
        )
    )
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            times[name].append(contender.seconds())
    theirs, ours = (statistics.median(times[name]) for name in ("xla", "cpu"))
    fields = (
        case.name,
        f"{case.bytes / 1e6:.1f}",
        f"{case.flops / 1e9:.2f}",
        f"{theirs * 1e6:.0f}",
        f"{ours * 1e6:.0f}",
        f"{theirs / ours:.1f}",
        f"{case.bytes / ours / bandwidth:.0%}",
        f"{case.flops / ours / rate:.0%}",
        f"{error:.0e}",
    )
    return f"| {' | '.join(fields)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--heads", type=int, nargs=3, default=(12, 4, 64), metavar=("QUERY", "KV", "DIM"))
    parser.add_argument("--page", type=int, default=16, help="tokens a page")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--only", default="", help="only shapes whose name has this text")
    arguments = parser.parse_args()
    if not library.available():
        raise SystemExit(f"kernels: {library.describe()}")
    bandwidth, rate = read_bandwidth(), matmul_rate()
    heads = tuple(arguments.heads)
    query_heads, kv_heads, head_dim = heads
    print(f"jax {jax.__version__}, kernels: {library.describe()}")
    print(f"{arguments.dtype}, {query_heads} / {kv_heads} heads of {head_dim}, page {arguments.page}")
    print(f"memory is read at {bandwidth / 1e9:.0f} GB/s, float32 multiplied at {rate / 1e9:.0f} GFLOP/s")
    print("\n| shape | MB | GFLOP | XLA us | native us | faster | of bandwidth | of matmul | difference |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for case in cases(heads, arguments.page, arguments.dtype):
        if arguments.only in case.name:
            print(row(case, bandwidth, rate), flush=True)


if __name__ == "__main__":
    main()
