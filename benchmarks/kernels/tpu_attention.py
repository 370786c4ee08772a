"""What the TPU attention kernels must move and compute, and what the TPU compiler makes of them.

    python benchmarks/kernels/tpu_attention.py                # bytes, FLOPs and roofline time: runs anywhere
    python benchmarks/kernels/tpu_attention.py --cycles       # and scheduled cycles: needs libtpu, and no TPU

Cycles are counted in the program the compiler finally schedules: its bundles (one a cycle), each as often as
the loops around it turn. Those trip counts follow from the shape, for our kernel as for JAX's own
``ragged_paged_attention`` (block sizes from its own tuning table, all sequences of the shape in both). Both
are the kernels as they run: no loop is unrolled for the occasion, no copy left out. What is not in the count,
for either: waiting for memory. It says how much arithmetic, loading and control surrounds the memory traffic;
it is no speed.

What is not alike: ours writes the new tokens in decode; JAX's kernel writes nothing and has no ALiBi.
Straight code under a condition counts as run in both. A context ends anywhere in its last page: ours then
clears the rest of the page in VMEM, and the mean of that is counted for every sequence. "around ours" is the
compiler's estimate for XLA's operations beside the kernel, a layer (of two layers less one), which lay out
new tokens (for heads of 64 queries and results as well); JAX's kernel takes them as they come.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]

CHIPS = {
    # name: (HBM bytes a second, bf16 FLOPs a second), of one chip, by its data sheet
    "v5e": (819e9, 197e12),
    "v6e": (1638e9, 918e12),
    "v5p": (2765e9, 459e12),
}
DEVICE_NAMES = {"v5e": "TPU v5", "v6e": "TPU v6", "v5p": "TPU v5p"}
"""As JAX's tuning table calls them."""
NUM_PAGES = 4096
"""Of a layer: so many that XLA cannot take them into VMEM."""
KERNELS = ("plain", "alibi", "jax")


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
    def tokens(self) -> int:
        """Query tokens."""
        return self.sequences * (self.context if self.kind == "prefill" else 1)

    @property
    def kv_bytes(self) -> int:
        """Keys and values read at least once, in bfloat16."""
        return 4 * self.kv_heads * self.head_dim * self.context * self.sequences

    @property
    def moved_bytes(self) -> int:
        """Keys and values, queries and results."""
        return self.kv_bytes + 4 * self.tokens * self.heads * self.head_dim

    @property
    def flops(self) -> int:
        """Of the two products, visible pairs only."""
        pairs = self.context * (self.context + 1) // 2 if self.kind == "prefill" else self.context
        return 4 * self.heads * self.head_dim * pairs * self.sequences

    def __str__(self) -> str:
        heads = f"{self.heads}/{self.kv_heads}x{self.head_dim}"
        return f"{self.kind} {heads} page {self.page}, {self.sequences} x {self.context}"


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


@dataclass(frozen=True)
class Program:
    """A call to compile, of one or several layers, and how often its kernel's loops turn.

    Attributes:
        layer: ``(pages, new keys and values, *arguments) -> (out [T, H, D], pages)``.
        arguments: queries ``[T, H, D]``, then the others, by shape.
        pages: one layer's, by shape.
        new: a layer's new keys and values, by shape; None where the kernel takes none.
        kernel: the kernel's name begins with this.
        trips: of its loops without a constant count, in their order; for one turn of what is around.
        once: the part of the steps that does what belongs to the first.
    """

    layer: Any
    arguments: Sequence[Any]
    pages: Any
    new: Any
    kernel: str
    trips: Sequence[float]
    once: float = 1.0


def our_program(shape: Shape, chip: str, alibi: bool) -> Program:
    """Ours: loops over steps, pages of the first copy, pairs, blocks, pages, groups to clear."""
    import jax
    import jax.numpy as jnp
    import tpu_compiler

    from vllm_jax.kernels.metadata import AttentionMetadata
    from vllm_jax.kernels.tpu import attention, blocks, layout

    decode = shape.kind == "decode"
    bf16 = jnp.dtype(jnp.bfloat16)
    pages_per_seq = shape.context // shape.page
    rows = attention.DECODE_ROWS if decode else 1
    units = layout.HeadUnits.with_rows(shape.kv_heads, shape.heads // shape.kv_heads, shape.head_dim, rows)
    with jax.sharding.use_abstract_mesh(tpu_compiler.mesh(chip).abstract_mesh):
        limits = blocks.current_chip()
    sizes = blocks.choose(limits, units, shape.page, bf16, bf16, 1 if decode else shape.tokens, pages_per_seq)

    def layer(pages, new, q, table, kv_lens, cu_q_lens, slopes):
        return attention.paged_attention(
            q,
            *new,
            pages,
            AttentionMetadata(table, kv_lens, cu_q_lens, decode, "tpu"),
            scale=shape.head_dim**-0.5,
            alibi_slopes=slopes if alibi else None,
        )

    per_block = sizes.kv_tokens // shape.page
    if decode:
        steps, seen = shape.sequences, [shape.context] * shape.sequences
    else:
        steps = shape.tokens // sizes.q_tokens
        seen = [(step + 1) * sizes.q_tokens for step in range(steps)]
    kv_blocks = sum(-(-keys // sizes.kv_tokens) for keys in seen) / steps
    pages = sum(-(-keys // shape.page) for keys in seen) / steps / kv_blocks
    group = min(shape.page, layout.tile_rows(bf16))
    clear = sum(-(-(shape.page - end) // group) for end in range(1, shape.page)) / shape.page / kv_blocks
    return Program(
        layer,
        [
            jax.ShapeDtypeStruct((shape.tokens, shape.heads, shape.head_dim), bf16),
            jax.ShapeDtypeStruct((shape.sequences, pages_per_seq), jnp.int32),
            jax.ShapeDtypeStruct((shape.sequences,), jnp.int32),
            jax.ShapeDtypeStruct((shape.sequences + 1,), jnp.int32),
            jax.ShapeDtypeStruct((shape.heads,), jnp.float32),
        ],
        jax.ShapeDtypeStruct(layout.pages_shape(NUM_PAGES, shape.page, shape.kv_heads, shape.head_dim), bf16),
        [jax.ShapeDtypeStruct((shape.tokens, shape.kv_heads, shape.head_dim), bf16)] * 2,
        "paged_decode" if decode else "paged_prefill",
        [steps, min(per_block, pages_per_seq) / steps, 1, kv_blocks, pages, clear],
        1 / steps,
    )


def jax_program(shape: Shape, chip: str) -> Program:
    """JAX's: loops over steps if there are several, sequences of a step, all key blocks of a sequence."""
    import jax
    import jax.numpy as jnp

    package = "jax.experimental.pallas.ops.tpu.ragged_paged_attention."
    kernel = importlib.import_module(package + "kernel")
    tuned = importlib.import_module(package + "tuned_block_sizes")
    tuned.get_device_name = lambda *_: DEVICE_NAMES[chip]
    tuned.get_tpu_version = lambda: int(chip[1])
    bf16, pages_per_seq = jnp.bfloat16, shape.context // shape.page
    pages, queries = tuned.get_tuned_block_sizes(
        bf16, bf16, shape.heads, shape.kv_heads, shape.head_dim, shape.page, shape.tokens, pages_per_seq
    )

    def layer(kv_pages, new, q, kv_lens, table, cu_q_lens, num_seqs):
        del new
        return kernel.ragged_paged_attention.__wrapped__(
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
        ), kv_pages

    def ints(*dims: int) -> Any:
        return jax.ShapeDtypeStruct(dims, jnp.int32)

    q_blocks = -(-shape.tokens // queries)
    heads, _ = kernel.get_min_heads_per_blk(shape.heads, 2 * shape.kv_heads, bf16, bf16)
    steps = q_blocks * (shape.heads // heads)
    trips = [max(shape.sequences / q_blocks, 1), -(-pages_per_seq // pages)]
    return Program(
        layer,
        [
            jax.ShapeDtypeStruct((shape.tokens, shape.heads, shape.head_dim), bf16),
            ints(shape.sequences),
            ints(shape.sequences, pages_per_seq),
            ints(shape.sequences + 1),
            ints(1),
        ],
        jax.ShapeDtypeStruct((NUM_PAGES, shape.page, 2 * shape.kv_heads, shape.head_dim), bf16),
        None,
        "ragged_paged_attention",
        trips if steps == 1 else [steps, *trips],
    )


def around_cycles(chip: str, program: Program, layers: int) -> int:
    """Compiles so many layers; the compiler's estimate for XLA's own operations in them."""
    import tpu_compiler

    def stack(pages, new, q, *rest):
        for index, (own, own_new) in enumerate(zip(pages, new, strict=True)):
            q, pages[index] = program.layer(own, own_new, q, *rest)
        return q, pages

    arguments = [[program.pages] * layers, [program.new] * layers, *program.arguments]
    compiled = tpu_compiler.compile_for(chip, stack, arguments, donate=(0,))
    return sum(int(cycles) for cycles in re.findall(r'"estimated_cycles":"(\d+)"', compiled.as_text()))


def measure(chip: str, which: str, folder: Path) -> None:
    """In a process of its own, whose compiler dumps into ``folder``: prints a JSON line a shape."""
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "kernels")]
    import bundles

    for index, shape in enumerate(SHAPES):
        try:
            program = (
                jax_program(shape, chip) if which == "jax" else our_program(shape, chip, which == "alibi")
            )
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            one = around_cycles(chip, program, 1)
            text = bundles.find_kernel(folder, program.kernel)
            cycles = bundles.weighted(bundles.read_program(text), program.trips, program.once)
            found = {"cycles": round(cycles)}
            if which == "plain":
                found["around"] = around_cycles(chip, program, 2) - one
        except Exception as error:  # another's kernel that refuses a shape must not end the table
            found = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps({"index": index, **found}), flush=True)


def measured(chip: str, which: str, seconds: int) -> dict[int, dict[str, Any]]:
    """What :func:`measure` found within ``seconds``, by the shape's index."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "dump"
        flags = (
            f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true "
            "--xla_jf_dump_llo_pass_label_regex=final.*"
        )
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "LIBTPU_INIT_ARGS": flags}
        command = [sys.executable, __file__, "--measure", chip, which, str(folder)]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=seconds, check=False
            )
            output = done.stdout
            if done.returncode:
                print(done.stderr[-500:], file=sys.stderr)
        except subprocess.TimeoutExpired as expired:
            output = (expired.stdout or b"").decode()
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    for line in lines:
        if "error" in line:
            print(f"{chip} {which}, {SHAPES[line['index']]}: {line['error']}", file=sys.stderr)
    return {line.pop("index"): line for line in lines}


def cell(found: dict[str, Any] | None, key: str) -> str:
    """A figure, or why there is none."""
    if found is None:
        return "no result in time"
    return str(found[key]) if key in found else "refused"


def print_rows(chip: str, results: dict[str, dict[int, dict[str, Any]]]) -> None:
    """The rows of one chip, from what :func:`measured` gave for each of ``KERNELS``."""
    for index, shape in enumerate(SHAPES):
        ours, with_alibi, other = (results[which].get(index) for which in KERNELS)
        fields = [cell(found, "cycles") for found in (ours, with_alibi, other)]
        for found in (ours, with_alibi):
            both = found and other and "cycles" in found and "cycles" in other
            fields.append(f"{found['cycles'] / other['cycles']:.2f}" if both else "-")
        fields.append(cell(ours, "around"))
        print(f"| {chip} {shape} | {' | '.join(fields)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", action="store_true", help="scheduled cycles; needs libtpu")
    parser.add_argument("--chips", nargs="+", default=list(CHIPS), choices=CHIPS, help="chips to compile for")
    parser.add_argument("--seconds", type=int, default=300, help="limit for one kernel on one chip")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        chip, which, folder = options.measure
        measure(chip, which, Path(folder))
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
    heads = [
        "ours",
        "with ALiBi",
        "JAX's",
        "ours / JAX's",
        "with ALiBi / JAX's",
        "around ours",
    ]
    print(f"\n| chip, shape | {' | '.join(heads)} |")
    print("|---|" + "---|" * len(heads))
    for chip in options.chips:
        print_rows(chip, {which: measured(chip, which, options.seconds) for which in KERNELS})


if __name__ == "__main__":
    main()
