"""Paged attention on a GPU: correct first, then beside the card's roofline and beside other kernels.

    PYTHONPATH=. python benchmarks/kernels/gpu_attention.py            all shapes, as a table
    PYTHONPATH=. python benchmarks/kernels/gpu_attention.py --tiny     small ones (interpreted without a GPU)

Where there is no GPU, the table says what each shape must move and compute, and "not run".

Every time is a median over runs of a program that repeats the operation on the device, so that a kernel of
ten microseconds is not measured as the hundred that its launch from Python takes. The roofline is the larger
of bytes over the copy bandwidth and FLOPs over the bfloat16 matmul rate, both measured in the same run. Bytes
are those that cannot be avoided: visible keys and values once, queries and results once.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory in the same process

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.roofline import RUNS, commit, copy_bandwidth, matmul_rate, milliseconds, repeated, seconds
from vllm_jax.kernels import reference
from vllm_jax.kernels.attention import kv_pages_shape
from vllm_jax.kernels.gpu.attention import PAGE_SIZE, paged_attention
from vllm_jax.kernels.metadata import AttentionMetadata

CHECKED_TOKENS = 8
"""Query tokens of a row that are compared with the reference, which gathers the whole context for each."""
TOLERANCE = 2e-2
"""Largest difference to float32 arithmetic: values are of size 1, weights and results are bfloat16."""


@dataclass(frozen=True)
class Case:
    """A shape: ``rows`` sequences with ``q_len`` new tokens each, at the end of ``context`` tokens."""

    rows: int
    q_len: int
    context: int
    heads: int
    kv_heads: int
    head_dim: int = 128
    page: int = PAGE_SIZE
    alibi: bool = False

    @property
    def name(self) -> str:
        kind = "decode" if self.q_len == 1 else f"prefill {self.q_len} of"
        heads = f"{self.heads}/{self.kv_heads} heads, page {self.page}"
        return f"{kind} {self.rows} x {self.context}, {heads}{', ALiBi' if self.alibi else ''}"

    @property
    def tokens(self) -> int:
        return self.rows * self.q_len

    @property
    def num_pages(self) -> int:
        return self.rows * (self.context // self.page)

    @property
    def kv_bytes(self) -> int:
        """Of the visible keys and values, in bfloat16."""
        return self.rows * self.context * 2 * self.kv_heads * self.head_dim * 2

    @property
    def bytes(self) -> int:
        """That must move: the context, new keys and values, queries and results."""
        new = self.tokens * 2 * self.kv_heads * self.head_dim * 2
        return self.kv_bytes + new + 2 * self.tokens * self.heads * self.head_dim * 2

    @property
    def flops(self) -> int:
        """Two products for every pair of a query and a key that it sees."""
        pairs = self.rows * (self.q_len * self.context - self.q_len * (self.q_len - 1) // 2)
        return 4 * pairs * self.heads * self.head_dim


def cases(tiny: bool) -> list[Case]:
    """All shapes; with ``tiny`` small ones of the same kinds."""
    batches, contexts = ((1, 3), (256, 768)) if tiny else ((1, 16, 64, 256), (1024, 4096, 32768))
    layouts = ((4, 4), (4, 2)) if tiny else ((32, 32), (32, 8))
    found = [Case(b, 1, c, h, kh) for h, kh in layouts for b in batches for c in contexts]
    found += [Case(1, contexts[1], contexts[1], h, kh) for h, kh in layouts]
    heads, kv_heads = layouts[0]
    return [
        *found,
        Case(batches[1], 1, contexts[1], heads, kv_heads, alibi=True),
        Case(batches[1], 1, contexts[1], heads, kv_heads, page=16),
        Case(1, contexts[1], contexts[1], heads, kv_heads, alibi=True),
        Case(1, contexts[1], contexts[1], heads, kv_heads, page=16),
        Case(1, contexts[1] // 4, contexts[-1], heads, kv_heads),
    ]


@dataclass
class Inputs:
    """Arrays of a case. Pages lie in random order, as they do in a server that has run for a while."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    pages: jax.Array
    metadata: AttentionMetadata
    slopes: jax.Array | None


@partial(jax.jit, static_argnums=(1, 2))
def large_normal(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.bfloat16) -> jax.Array:
    """Normal numbers that repeat every 64 million: to draw all of 30 GB takes several times its memory."""
    size = int(np.prod(shape, dtype=np.int64))
    drawn = jax.random.normal(key, min(size, 1 << 26), dtype)
    return jnp.tile(drawn, -(-size // drawn.size))[:size].reshape(shape)


def make_inputs(case: Case) -> Inputs:
    keys = jax.random.split(jax.random.key(0), 4)
    normal = partial(jax.random.normal, dtype=jnp.bfloat16)
    shape = kv_pages_shape(case.num_pages, case.page, case.kv_heads, case.head_dim, implementation="gpu")
    table = np.random.default_rng(0).permutation(case.num_pages).reshape(case.rows, -1)
    return Inputs(
        normal(keys[0], (case.tokens, case.heads, case.head_dim)),
        normal(keys[1], (case.tokens, case.kv_heads, case.head_dim)),
        normal(keys[2], (case.tokens, case.kv_heads, case.head_dim)),
        large_normal(keys[3], shape),
        AttentionMetadata(
            jnp.asarray(table, jnp.int32),
            jnp.full(case.rows, case.context, jnp.int32),
            jnp.arange(case.rows + 1, dtype=jnp.int32) * case.q_len,
            case.q_len == 1,
            "gpu",
        ),
        2.0 ** -jnp.linspace(1, 8, case.heads) if case.alibi else None,
    )


def operation(case: Case, slopes: jax.Array | None, interpret: bool) -> Callable[..., Any]:
    """``(q, k, v, pages, metadata) -> (out, pages)``."""
    return partial(paged_attention, scale=case.head_dim**-0.5, alibi_slopes=slopes, interpret=interpret)


def largest_error(case: Case, inputs: Inputs, out: jax.Array, pages: jax.Array) -> float:
    """Against the reference in float32, for the last tokens of the first and the last row."""
    errors = []
    count = min(case.q_len, CHECKED_TOKENS)
    for row in {0, case.rows - 1}:
        last = slice((row + 1) * case.q_len - count, (row + 1) * case.q_len)
        own = pages[inputs.metadata.page_table[row]].astype(jnp.float32)
        metadata = AttentionMetadata(
            jnp.arange(own.shape[0], dtype=jnp.int32)[None],
            jnp.asarray([case.context], jnp.int32),
            jnp.asarray([0, count], jnp.int32),
        )
        expected, written = jax.jit(
            partial(reference.paged_attention, scale=case.head_dim**-0.5, alibi_slopes=inputs.slopes)
        )(
            inputs.q[last].astype(jnp.float32),
            inputs.k[last].astype(jnp.float32),
            inputs.v[last].astype(jnp.float32),
            own,
            metadata,
        )
        if not bool(jnp.all(written == own)):
            raise AssertionError(f"{case.name}: the new keys and values are not where they belong")
        errors.append(float(jnp.max(jnp.abs(out[last].astype(jnp.float32) - expected))))
    return max(errors)


def repeats_for(case: Case) -> int:
    """Operations a run: about a hundredth of a second at 2 TB/s and 200 TFLOP/s."""
    return int(min(max(0.01 / max(case.bytes / 2e12, case.flops / 2e14), 2), 200))


def our_time(case: Case, inputs: Inputs) -> float:
    """Seconds of the whole operation, the write into the pages included."""
    attend = operation(case, inputs.slopes, interpret=False)
    repeats = repeats_for(case)

    def step(state: tuple[jax.Array, jax.Array], k: jax.Array, v: jax.Array, metadata: Any) -> Any:
        return attend(state[0], k, v, state[1], metadata)

    run = repeated(step, repeats, donate=(0,))
    state, times = (inputs.q, inputs.pages), []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        state = jax.block_until_ready(run(state, inputs.k, inputs.v, inputs.metadata))
        times.append((time.perf_counter() - started) / repeats)
    inputs.q, inputs.pages = state
    return statistics.median(times[1:])


def jax_times(case: Case) -> dict[str, float | str]:
    """JAX's own kernels on the same shape: seconds, or why there are none."""
    from jax.experimental.pallas.ops.gpu import attention as mha
    from jax.experimental.pallas.ops.gpu import decode_attention
    from jax.experimental.pallas.ops.gpu import paged_attention as jax_paged

    def normal(*shape: int, seed: int = 2, dtype: Any = jnp.bfloat16) -> jax.Array:
        return large_normal(jax.random.key(seed), shape, dtype)

    repeats = repeats_for(case)
    scale = case.head_dim**-0.5

    def paged() -> float:
        q = normal(case.rows, case.heads, case.head_dim)
        k, v = (normal(case.kv_heads, case.num_pages, case.page, case.head_dim, seed=i) for i in (3, 4))
        table = jnp.arange(case.num_pages, dtype=jnp.int32).reshape(case.rows, -1)
        lens = jnp.full(case.rows, case.context, jnp.int32)
        splits = min(16, table.shape[1])
        attend = partial(
            jax_paged.paged_attention,
            k_splits=splits,
            pages_per_compute_block=min(8, max(128 // case.page, 1), table.shape[1] // splits),
        )
        return seconds(
            repeated(lambda x, *rest: attend(x * scale, *rest), repeats),
            *(q, k, v, table, lens),
            repeats=repeats,
        )

    def dense_decode() -> float:
        q = normal(case.rows, case.heads, case.head_dim)
        k, v = (normal(case.rows, case.context, case.kv_heads, case.head_dim, seed=i) for i in (3, 4))
        attend = partial(decode_attention.gqa, sm_scale=scale)
        run = repeated(lambda x, *kv: attend(x, *kv).astype(x.dtype), repeats)
        return seconds(run, q, k, v, repeats=repeats)

    def triton_mha() -> float:
        q, k, v = (normal(case.rows, case.q_len, case.heads, case.head_dim, seed=i) for i in (2, 3, 4))
        sizes = mha.BlockSizes(block_q=128, block_k=64)
        attend = partial(mha.mha, segment_ids=None, sm_scale=scale, causal=True, block_sizes=sizes)
        return seconds(repeated(attend, repeats), q, k, v, repeats=repeats)

    def mosaic() -> float:
        from jax.experimental.pallas.ops.gpu import attention_mgpu

        config = attention_mgpu.TuningConfig(block_q=64, block_kv=128, max_concurrent_steps=2, causal=True)
        half = partial(normal, dtype=jnp.float16)  # with bfloat16 it mixes the two types and fails
        q = half(case.rows, case.q_len, case.heads, case.head_dim)
        k, v = (half(case.rows, case.context, case.kv_heads, case.head_dim, seed=i) for i in (3, 4))
        run = repeated(lambda x, *kv: attention_mgpu.attention(x * scale, *kv, config), repeats)
        return seconds(run, q, k, v, repeats=repeats)

    if case.q_len == 1:
        return {"JAX paged": attempt(paged), "JAX decode": attempt(dense_decode)}
    if case.q_len != case.context:
        return {}
    return {"JAX mha": attempt(triton_mha), "JAX Mosaic float16": attempt(mosaic)}


def torch_time(case: Case) -> float | str:
    """PyTorch's scaled_dot_product_attention, on keys that lie together."""
    try:
        import torch
    except ImportError:
        return "no torch"
    if not torch.cuda.is_available():
        return "no CUDA in torch"
    if case.q_len not in (1, case.context):
        return "-"

    def run() -> float:
        def random(length: int, heads: int) -> Any:
            return torch.randn((case.rows, heads, length, case.head_dim), dtype=torch.bfloat16, device="cuda")

        q, k, v = random(case.q_len, case.heads), *(random(case.context, case.kv_heads) for _ in "kv")
        attend = partial(
            torch.nn.functional.scaled_dot_product_attention,
            is_causal=case.q_len > 1,
            enable_gqa=case.heads != case.kv_heads,
        )
        attend(q, k, v)
        repeats = repeats_for(case)
        times = []
        for _ in range(RUNS):
            torch.cuda.synchronize()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(repeats):
                attend(q, k, v)
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) / 1000 / repeats)
        del q, k, v
        torch.cuda.empty_cache()
        return statistics.median(times)

    return attempt(run)


def attempt(run: Callable[[], float]) -> float | str:
    """The time, or the kind of error: another's kernel that fails must not end the table."""
    try:
        return run()
    except Exception as error:
        return type(error).__name__


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small shapes")
    parser.add_argument("--only", default="", help="shapes whose name contains this")
    options = parser.parse_args()
    wanted = [case for case in cases(options.tiny) if options.only in case.name]
    device = jax.devices()[0]
    on_gpu = device.platform == "gpu"
    print(f"device {device.device_kind}, jax {jax.__version__}, commit {commit()}")
    bandwidth = rate = None
    if on_gpu:
        bandwidth, rate = copy_bandwidth(), matmul_rate()
        print(f"copy {bandwidth / 1e12:.2f} TB/s, bfloat16 matmul {rate / 1e12:.0f} TFLOP/s")
    else:
        print("no GPU: times are not run")
    print("\n| shape | MB | GFLOP | roofline ms | error | ours ms | of roofline | others, ms |")
    print("|---|---|---|---|---|---|---|---|")
    for case in wanted:
        print(row(case, options.tiny, bandwidth, rate), flush=True)


def row(case: Case, tiny: bool, bandwidth: float | None, rate: float | None) -> str:
    """One line of the table."""
    fields = [case.name, f"{case.bytes / 1e6:.1f}", f"{case.flops / 1e9:.2f}"]
    if bandwidth is None or rate is None:
        if not tiny:
            return f"| {' | '.join([*fields, *['not run'] * 5])} |"
        inputs = make_inputs(case)
        out, pages = jax.jit(operation(case, inputs.slopes, True))(
            inputs.q, inputs.k, inputs.v, inputs.pages, inputs.metadata
        )
        error = checked(case, inputs, out, pages)
        return f"| {' | '.join([*fields, 'not run', error, *['not run'] * 3])} |"
    memory = jax.devices()[0].memory_stats()
    if memory is not None and 2.2 * case.kv_bytes > memory["bytes_limit"]:
        return f"| {' | '.join([*fields, *['does not fit'] * 5])} |"
    roofline = max(case.bytes / bandwidth, case.flops / rate)
    inputs = make_inputs(case)
    attend = jax.jit(operation(case, inputs.slopes, False), donate_argnums=3)
    out, inputs.pages = attend(inputs.q, inputs.k, inputs.v, inputs.pages, inputs.metadata)
    error = checked(case, inputs, out, inputs.pages)
    ours = our_time(case, inputs)
    del inputs, out
    others = {**jax_times(case), "PyTorch": torch_time(case)} if not case.alibi else {}
    return (
        "| "
        + " | ".join(
            [
                *fields,
                milliseconds(roofline),
                error,
                milliseconds(ours),
                f"{roofline / ours:.0%}",
                ", ".join(f"{name} {milliseconds(value)}" for name, value in others.items()),
            ]
        )
        + " |"
    )


def checked(case: Case, inputs: Inputs, out: jax.Array, pages: jax.Array) -> str:
    """The largest error; raises AssertionError where it is too large to time anything."""
    error = largest_error(case, inputs, out, pages)
    if not error < TOLERANCE:
        raise AssertionError(f"{case.name}: wrong by {error}")
    return f"{error:.1e}"


if __name__ == "__main__":
    main()
