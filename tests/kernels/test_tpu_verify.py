"""The TPU kernels and whole steps, compiled by the real TPU compiler. Needs the extra "verify" and no TPU.

pip install 'vllm-jax[verify]' && JAX_PLATFORMS=cpu pytest tests/kernels/test_tpu_verify.py
"""

from __future__ import annotations

import math
import sys
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import pytest
from covering import covering
from flax import nnx
from jax.experimental import pallas as pl
from jax.sharding import NamedSharding, PartitionSpec
from model_shapes import MODELS
from tpu_compiler import HAVE_LIBTPU, array, compile_for, four_devices

from vllm_jax.kernels.metadata import AttentionMetadata
from vllm_jax.kernels.tpu import attention as tpu
from vllm_jax.kernels.tpu import kernel
from vllm_jax.kernels.tpu.blocks import BlockSizes
from vllm_jax.models.registry import resolve
from vllm_jax.runner import programs
from vllm_jax.runner.model_runner import KVSpec

pytestmark = pytest.mark.skipif(not HAVE_LIBTPU, reason="needs libtpu (the extra verify)")

MIB = 1 << 20
FACTORS = {
    "chip": ("v5e", "v6e", "v5p", "tpu7x"),
    "heads": ((32, 32), (32, 8), (71, 1)),
    "head_dim": (64, 80, 96, 128, 256),
    "page": (16, 32, 64, 128, 256),
    "dtypes": (
        ("bfloat16", "bfloat16"),
        ("float32", "float32"),
        ("bfloat16", "int8"),
        ("bfloat16", "float8_e4m3fn"),
    ),
    "decode_only": (False, True),
}


def attention(chip, heads, head_dim, page, dtypes, decode_only, *, num_pages=256, **sizes):
    """One layer's attention with every option, and the bytes of its pages and of its queries."""
    (heads, kv_heads), (dtype, kv_dtype) = heads, dtypes
    num_seqs = 16
    num_tokens = num_seqs if decode_only else 256
    pages = array(tpu.pages_shape(num_pages, page, kv_heads, head_dim), kv_dtype)

    def attend(q, k, v, pages, page_table, kv_lens, cu_q_lens, per_head):
        metadata = AttentionMetadata(page_table, kv_lens, cu_q_lens, decode_only, "tpu")
        return tpu.paged_attention(
            q,
            k,
            v,
            pages,
            metadata,
            scale=0.1,
            alibi_slopes=per_head,
            sinks=per_head,
            sliding_window=1000,
            soft_cap=30.0,
            k_scale=0.1,
            v_scale=0.1,
            **sizes,
        )

    kv = array((num_tokens, kv_heads, head_dim), dtype)
    arguments = (
        array((num_tokens, heads, head_dim), dtype),
        kv,
        kv,
        pages,
        array((num_seqs, 4096 // page), "int32"),
        array((num_seqs,), "int32"),
        array((num_seqs + 1,), "int32"),
        array((heads,), "float32"),
    )
    compiled = compile_for(chip, attend, arguments, donate=(3,))
    return compiled, *(x.size * x.dtype.itemsize for x in (pages, arguments[0]))


def case_name(row: tuple) -> str:
    """Readable, for pytest."""
    chip, (heads, kv_heads), head_dim, page, (dtype, stored), decode_only = row
    kind = "decode" if decode_only else "mixed"
    return f"{chip}-{heads}.{kv_heads}x{head_dim}-page{page}-{dtype}-{stored}-{kind}"


PLAIN = ("bfloat16", "bfloat16")
OLDEST = ("v4", (32, 8), 128, 64, PLAIN, False)
HALF_TILES = [
    # Pages that are half a tile, by writing kernel, decode and prefill, on each chip.
    ("v5e", (32, 8), 64, 16, ("bfloat16", "int8"), False),
    ("v6e", (32, 32), 128, 16, ("bfloat16", "float8_e4m3fn"), False),
    ("v5p", (32, 8), 256, 16, ("bfloat16", "int8"), False),
    ("tpu7x", (32, 8), 128, 16, ("bfloat16", "float8_e4m3fn"), False),
]


@pytest.mark.parametrize("row", [*covering(FACTORS), *HALF_TILES, OLDEST], ids=case_name)
def test_compiles_and_updates_the_pages_in_place(row):
    """Any two of chip, heads, head dim, page, dtypes and kind meet; as a program this file does all."""
    compiled, page_bytes, query_bytes = attention(*row)
    memory = compiled.memory_analysis()
    assert page_bytes <= memory.alias_size_in_bytes < page_bytes * 1.01, "padded, or not donated"
    assert memory.temp_size_in_bytes < 16 * MIB + 3 * query_bytes


class TestTheCompilerRefuses:
    """What it does not refuse, the tests above would not prove."""

    def test_unaligned_loads(self, monkeypatch):
        def tile(refs, slot, tile, dtype):
            return refs.buffers[slot, tile, 0, pl.ds(slot, 16), :].astype(dtype)

        monkeypatch.setattr(kernel, "_tile", tile)
        with pytest.raises(Exception, match="Alignment"):
            attention("v5e", (8, 8), 128, 16, PLAIN, True, decode_sizes=BlockSizes(1, 16, 16 * MIB))

    def test_buffers_beyond_vector_memory(self):
        sizes = BlockSizes(1, 4096, 96 * MIB)
        with pytest.raises(Exception, match=r"(?i)vmem|memory"):
            attention("v6e", (32, 32), 128, 64, PLAIN, True, decode_sizes=sizes)

    def test_pages_beyond_device_memory(self):
        with pytest.raises(Exception, match=r"(?i)hbm|memory"):
            attention("v5e", (32, 32), 128, 64, PLAIN, True, num_pages=20000)


def test_heads_split_over_four_devices():
    """In ``shard_map`` over the heads every device runs the kernels on its own pages: no collective."""
    heads, kv_heads, head_dim, page = 32, 8, 128, 64
    devices = four_devices()
    local = tpu.pages_shape(256, page, kv_heads // 4, head_dim)
    by_head, by_tile = PartitionSpec(None, "x"), PartitionSpec(None, "x")
    everywhere = PartitionSpec()

    def attend(q, k, v, pages, page_table, kv_lens, cu_q_lens, slopes):
        metadata = AttentionMetadata(page_table, kv_lens, cu_q_lens, False, "tpu")
        return tpu.paged_attention(q, k, v, pages, metadata, scale=0.1, alibi_slopes=slopes)

    split = jax.shard_map(
        attend,
        mesh=devices,
        in_specs=(by_head, by_head, by_head, by_tile, everywhere, everywhere, everywhere, PartitionSpec("x")),
        out_specs=(by_head, by_tile),
        check_vma=False,
    )

    def placed(shape, dtype, spec):
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=NamedSharding(devices, spec))

    kv = placed((64, kv_heads, head_dim), "bfloat16", by_head)
    arguments = (
        placed((64, heads, head_dim), "bfloat16", by_head),
        kv,
        kv,
        placed((local[0], 4 * local[1], *local[2:]), "bfloat16", by_tile),
        placed((16, 64), "int32", everywhere),
        placed((16,), "int32", everywhere),
        placed((17,), "int32", everywhere),
        placed((heads,), "float32", PartitionSpec("x")),
    )
    with jax.sharding.use_abstract_mesh(devices.abstract_mesh):
        compiled = jax.jit(split, donate_argnums=3).trace(*arguments).lower().compile()
    text = compiled.as_text()
    assert "tpu_custom_call" in text
    assert not [name for name in ("all-gather", "all-reduce", "all-to-all", "permute") if name in text]
    assert compiled.memory_analysis().alias_size_in_bytes >= 2 * math.prod(local)


STEPS = [
    # model, tokens (16: every row decodes), chip, pages
    ("mpt-7b", 16, "v6e", 256),
    ("llama-3-8b", 16, "v6e", 1024),
    ("mpt-7b", 512, "v5p", 512),
    ("llama-3-8b", 512, "v6e", 1024),
]


@pytest.mark.parametrize(("name", "tokens", "chip", "num_pages"), STEPS, ids=lambda value: str(value))
def test_whole_step(name, tokens, chip, num_pages):
    """A step of the runner: the cache is donated, nothing of its size is made, HBM holds what it should."""
    family = resolve(MODELS[name])
    config = family.read_config(MODELS[name])
    layers = config.num_layers
    model = nnx.eval_shape(lambda: family.build(config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    leaves, rebuild = programs.rebuilder(model)
    spec = KVSpec(layers, tpu.PAGE_SIZE, config.num_kv_heads, config.head_dim, jnp.dtype("bfloat16"), "tpu")
    rows, length = 16, 2048
    layout = programs.StepLayout(tokens, rows, length // tpu.PAGE_SIZE)
    step = partial(
        programs.forward,
        rebuild=rebuild,
        layout=layout,
        decode_only=tokens == rows,
        implementation="tpu",
    )
    pages = [spec.page_array(num_pages)] * layers
    history, packed = array((rows, length), "int32"), array((layout.size,), "int32")
    compiled = compile_for(chip, step, (leaves, pages, history, packed), donate=(1,))
    memory = compiled.memory_analysis()
    cache_bytes = num_pages * spec.bytes_per_page
    weight_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    print(
        f"weights {weight_bytes / MIB:.0f} MiB, cache {cache_bytes / MIB:.0f} MiB, "
        f"temporary {memory.temp_size_in_bytes / MIB:.1f} MiB, "
        f"peak {memory.peak_memory_in_bytes / MIB:.0f} MiB"
    )
    assert cache_bytes <= memory.alias_size_in_bytes < cache_bytes * 1.01
    assert memory.temp_size_in_bytes < 64 * MIB
    assert memory.peak_memory_in_bytes < (weight_bytes + cache_bytes) * 1.01 + 128 * MIB
    shape = ",".join(map(str, pages[0].shape))
    text = compiled.as_text()
    assert not [line for line in text.splitlines() if f"bf16[{shape}]" in line and " copy(" in line]
    assert text.count('custom_call_target="tpu_custom_call"') == layers * (1 if tokens == rows else 3)

    # The compiler counts what arithmetic says: a product with every weight, attention over full tables.
    cost = compiled.cost_analysis()
    embedding = config.vocab_size * 4096
    products = sum(math.prod(leaf.shape) for leaf in leaves if leaf.ndim > 1) - 2 * embedding
    if name == "mpt-7b":  # its one embedding is read as rows and multiplied with
        products += embedding
    pairs, contexts = rows * length, rows
    if tokens > rows:  # rows that decode, and a chunk of all tokens at a context's end
        pairs, contexts = pairs + tokens * (length - tokens // 2), rows + 1
    flops = 2 * products * tokens + 2 * embedding * rows + layers * 4 * pairs * 4096
    moved = 2 * (products + embedding) + contexts * length // tpu.PAGE_SIZE * spec.bytes_per_page
    print(f"flops {cost['flops'] / flops:.3f}, bytes {cost['bytes accessed'] / moved:.3f} of what is said")
    assert cost["flops"] == pytest.approx(flops, rel=0.05)
    # XLA counts a weight twice where it fuses two products, and what passes between operations.
    assert 0.98 * moved < cost["bytes accessed"] < 1.5 * moved


def main() -> None:
    """Compiles the full product, for the chips that are named or for all; prints what fails."""
    chips = sys.argv[1:] or FACTORS["chip"]
    rows = list(product(chips, *list(FACTORS.values())[1:]))
    failed = 0
    for index, row in enumerate(rows):
        try:
            test_compiles_and_updates_the_pages_in_place(row)
        except Exception as error:
            failed += 1
            print(f"{case_name(row)}: {type(error).__name__}: {str(error)[:300]}", flush=True)
        if index % 50 == 49:
            print(f"{index + 1} of {len(rows)}, {failed} failed", flush=True)
    print(f"{len(rows)} compiled, {failed} failed")


if __name__ == "__main__":
    main()
