"""What the TPU attention kernels must move and compute, and what the TPU compiler thinks of them.

    python benchmarks/kernels/tpu_attention.py                # bytes, FLOPs and roofline time: runs anywhere
    python benchmarks/kernels/tpu_attention.py --cycles       # and compiler-estimated cycles: needs libtpu

The cycles are the compiler's static estimate for *twins* of the kernels: the same body with constant trip
counts and without its copies, because the estimator follows neither loops that depend on data nor our
copies. They tell how much arithmetic and loading surrounds the memory traffic; they are no speed. Our twin
covers a few grid steps, and is multiplied up to the shape. JAX's own ``ragged_paged_attention`` gets the
same treatment at the same shapes and pages, with the block sizes of its own tuning table. It has no ALiBi
and does not write the new tokens; ours does.
"""

from __future__ import annotations

import argparse
import glob
import importlib
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

REPOSITORY = Path(__file__).resolve().parents[2]

CHIPS = {
    # name: (HBM bytes a second, bf16 FLOPs a second), of one chip, by its data sheet
    "v5e": (819e9, 197e12),
    "v6e": (1638e9, 918e12),
    "v5p": (2765e9, 459e12),
}


@dataclass(frozen=True)
class Shape:
    """``sequences`` of ``context`` tokens each; decode adds one token to each, prefill computes them all."""

    kind: str
    heads: int
    kv_heads: int
    head_dim: int
    page: int
    context: int
    sequences: int

    @property
    def kv_bytes(self) -> int:
        """Keys and values read at least once, in bfloat16."""
        return 4 * self.kv_heads * self.head_dim * self.context * self.sequences

    @property
    def moved_bytes(self) -> int:
        """Keys and values, queries and results."""
        tokens = self.sequences * (self.context if self.kind == "prefill" else 1)
        return self.kv_bytes + 4 * tokens * self.heads * self.head_dim

    @property
    def flops(self) -> int:
        """Of the two products, visible pairs only."""
        pairs = self.context * (self.context + 1) // 2 if self.kind == "prefill" else self.context
        return 4 * self.heads * self.head_dim * pairs * self.sequences

    def __str__(self) -> str:
        heads = f"{self.heads}/{self.kv_heads}x{self.head_dim}"
        return f"{self.kind} {heads} page {self.page}, {self.sequences} x {self.context}"


MOST_BLOCKS = 12
SHAPES = [
    Shape("decode", 32, 32, 128, 64, 1024, 16),
    Shape("decode", 32, 8, 128, 64, 1024, 16),
    Shape("decode", 32, 8, 128, 16, 1024, 16),
    Shape("decode", 32, 8, 128, 64, 2048, 16),
    Shape("decode", 32, 8, 64, 64, 1024, 16),
    Shape("prefill", 32, 32, 128, 64, 1024, 1),
    Shape("prefill", 32, 8, 128, 64, 1024, 1),
]


def roofline_microseconds(shape: Shape, chip: str) -> tuple[float, str]:
    """The least time, and what sets it."""
    bandwidth, rate = CHIPS[chip]
    memory, compute = shape.moved_bytes / bandwidth, shape.flops / rate
    return max(memory, compute) * 1e6, "memory" if memory > compute else "compute"


class _Module:
    """A module with some names replaced."""

    def __init__(self, module, **replaced):
        self._module, self._replaced = module, replaced

    def __getattr__(self, name):
        return self._replaced[name] if name in self._replaced else getattr(self._module, name)


def _constant_loops(jax, trips: dict[str, int]) -> _Module:
    """``jax.lax`` whose loops run ``trips[name of their body or condition]`` times; others stay."""

    def fori_loop(lower, upper, body, init):
        if body.__name__ == "one_tile":  # straight-line: the estimator takes minutes for nested loops
            for index in range(lower, upper):
                init = body(index, init)
            return init
        if body.__name__ not in trips:
            return jax.lax.fori_loop(lower, upper, body, init)
        return jax.lax.fori_loop(0, trips[body.__name__], lambda i, carry: body(lower + i, carry), init)

    def while_loop(condition, body, init):
        return jax.lax.fori_loop(0, trips[condition.__name__], lambda _, carry: body(carry), init)

    return _Module(jax.lax, fori_loop=fori_loop, while_loop=while_loop)


def _without_copies() -> None:
    pltpu = importlib.import_module("jax.experimental.pallas.tpu")
    nothing = SimpleNamespace(start=lambda: None, wait=lambda: None)
    pltpu.make_async_copy = lambda *_: nothing


def _our_twin(shape: Shape, chip_info, alibi: bool):
    """``(function, arguments, share)`` of our kernel, every loop constant; ``share`` twins make the shape."""
    import jax
    import jax.numpy as jnp

    from vllm_jax.kernels.tpu import blocks, kernel, layout, plan

    decode = shape.kind == "decode"
    group = shape.heads // shape.kv_heads
    units = layout.HeadUnits.with_rows(shape.kv_heads, group, shape.head_dim, 8 if decode else 1)
    pages_per_seq = shape.context // shape.page
    bf16 = jnp.dtype(jnp.bfloat16)
    tokens = 1 if decode else shape.context
    sizes = blocks.choose(chip_info, units, shape.page, bf16, bf16, tokens, pages_per_seq)
    call = kernel.AttentionCall(
        units, sizes, shape.page, pages_per_seq, shape.head_dim**-0.5, 1.0, None, None, writes=decode
    )
    kv_blocks = -(-shape.context // sizes.kv_tokens)
    all_steps = shape.sequences
    if not decode:  # the causal half: the mean number of blocks a query block visits, rounded up
        all_steps = shape.context // sizes.q_tokens
        visited = [-(-(i + 1) * sizes.q_tokens // sizes.kv_tokens) for i in range(all_steps)]
        kv_blocks = -(-sum(visited) // all_steps)
    # The estimator takes long over many blocks: a few steps stand for all of them.
    steps = max(1, MOST_BLOCKS // kv_blocks) if decode else 1
    trips = {"attend_pair": 1, "attend_block": kv_blocks, "one_page": sizes.kv_tokens // shape.page}
    trips["one_group"] = 1  # of the last page's tail
    kernel.jax = _Module(jax, lax=_constant_loops(jax, trips))
    kernel.jnp = _Module(jnp, maximum=lambda a, b: max(a, b) if isinstance(a, int) else jnp.maximum(a, b))
    rows = units.num_rows(sizes.q_tokens)

    def function(q, pages, table, new, slopes, first, *pairs):
        return kernel.attend(
            call,
            plan.Pairs(first, *pairs),
            steps,
            table,
            q,
            pages,
            slopes=slopes if alibi else None,
            sinks=None,
            new=new if decode else None,
            interpret=False,
        )

    def array(dtype, *dims):
        return jax.ShapeDtypeStruct(dims, dtype)

    arguments = [
        array(bf16, steps, units.num_units, rows, units.keys.num_tiles * 128),
        array(bf16, *layout.pages_shape(64, shape.page, shape.kv_heads, shape.head_dim)),
        array(jnp.int32, shape.sequences, pages_per_seq),
        array(bf16, steps, layout.lane_tiles(shape.kv_heads, shape.head_dim), 1, 128),
        array(jnp.float32, units.num_units, rows, 128),
        array(jnp.int32, steps + 1),
        *[array(jnp.int32, steps)] * 7,
    ]
    return function, arguments, all_steps / steps


def _jax_twin(shape: Shape, chip: str):
    """The same of JAX's ragged kernel."""
    import jax
    import jax.numpy as jnp

    package = "jax.experimental.pallas.ops.tpu.ragged_paged_attention."
    theirs = importlib.import_module(package + "kernel")
    tuned = importlib.import_module(package + "tuned_block_sizes")
    tuned.get_device_name = lambda *_: {"v5e": "TPU v5", "v6e": "TPU v6", "v5p": "TPU v5p"}[chip]
    tuned.get_tpu_version = lambda: int(chip[1])
    tokens = shape.sequences * (1 if shape.kind == "decode" else shape.context)
    pages_per_seq = shape.context // shape.page
    pages, queries = tuned.get_tuned_block_sizes(
        jnp.bfloat16,
        jnp.bfloat16,
        shape.heads,
        shape.kv_heads,
        shape.head_dim,
        shape.page,
        tokens,
        pages_per_seq,
    )
    theirs.lax = _constant_loops(
        jax,
        {
            "is_cur_q_blk_needed": queries if shape.kind == "decode" else 1,
            "is_valid_kv_blk_in_cur_seq": -(-pages_per_seq // pages),
        },
    )

    def function(q, kv_pages, kv_lens, table, cu_q_lens, num_seqs):
        return theirs.ragged_paged_attention.__wrapped__(
            q,
            kv_pages,
            kv_lens,
            table,
            cu_q_lens,
            num_seqs,
            sm_scale=shape.head_dim**-0.5,
            num_kv_pages_per_block=pages,
            num_queries_per_block=queries,
            vmem_limit_bytes=64 << 20,
        )

    def ints(*dims):
        return jax.ShapeDtypeStruct(dims, jnp.int32)

    arguments = [
        jax.ShapeDtypeStruct((tokens, shape.heads, shape.head_dim), jnp.bfloat16),
        jax.ShapeDtypeStruct((64, shape.page, 2 * shape.kv_heads, shape.head_dim), jnp.bfloat16),
        ints(shape.sequences),
        ints(shape.sequences, pages_per_seq),
        ints(shape.sequences + 1),
        ints(1),
    ]
    return function, arguments, 1.0


def compile_twin(index: int, chip: str, which: str) -> None:
    """In a process of its own, because the estimator may end it: compiles one twin."""
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "kernels")]
    import jax
    import tpu_compiler

    from vllm_jax.kernels.tpu import blocks

    _without_copies()
    with jax.sharding.use_abstract_mesh(tpu_compiler.mesh(chip).abstract_mesh):
        chip_info = blocks.current_chip()
    shape = SHAPES[index]
    function, arguments, share = (
        _jax_twin(shape, chip) if which == "jax" else _our_twin(shape, chip_info, which == "alibi")
    )
    print(f"share={share}", flush=True)
    tpu_compiler.compile_for(chip, function, arguments)


def estimated_cycles(index: int, chip: str, which: str, seconds: int) -> int | None:
    """What the compiler estimates for one twin; None where it would not."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "LIBTPU_INIT_ARGS": f"--xla_jf_dump_static_llo_profile_to={folder}",
        }
        command = [sys.executable, __file__, "--twin", str(index), chip, which]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return None
        share = re.search(r"share=([\d.]+)", done.stdout)
        for path in glob.glob(f"{folder}/*paged*"):
            cycles = re.findall(r"estimated_cycles: (\d+)", Path(path).read_text())
            return round(int(cycles[0]) * float(share[1])) if share and cycles else None
    return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", action="store_true", help="compiler-estimated cycles; needs libtpu")
    parser.add_argument(
        "--chips", nargs="+", default=["v6e", "v5p"], choices=CHIPS, help="chips to compile for"
    )
    parser.add_argument("--seconds", type=int, default=120, help="limit of one compilation")
    parser.add_argument("--twin", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.twin:
        compile_twin(int(options.twin[0]), *options.twin[1:])
        return
    print("| shape | MB moved | GFLOP | " + " | ".join(f"{chip} least us" for chip in CHIPS) + " |")
    print("|---|---|---|" + "---|" * len(CHIPS))
    for shape in SHAPES:
        times = [
            f"{least:.0f} ({bound})" for least, bound in (roofline_microseconds(shape, c) for c in CHIPS)
        ]
        print(f"| {shape} | {shape.moved_bytes / 1e6:.0f} | {shape.flops / 1e9:.1f} | {' | '.join(times)} |")
    if not options.cycles:
        return
    print("\n| chip, shape | ours, cycles | ours with ALiBi | JAX's | ours / JAX's | with ALiBi / JAX's |")
    print("|---|---|---|---|---|---|")
    for chip in options.chips:
        for index, shape in enumerate(SHAPES):
            plain, alibi, theirs = (
                estimated_cycles(index, chip, which, options.seconds) for which in ("plain", "alibi", "jax")
            )
            shares = [f"{x / theirs:.2f}" if x and theirs else "-" for x in (plain, alibi)]
            print(f"| {chip} {shape} | {plain} | {alibi} | {theirs} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main()
