"""The TPU kernels and whole steps, compiled by the real TPU compiler. Needs the extra "verify" and no TPU.

pip install 'vllm-jax[verify]' && JAX_PLATFORMS=cpu pytest tests/kernels/test_tpu_verify.py
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from tpu_compiler import HAVE_LIBTPU, array, compile_for, four_devices

from vllm_jax.kernels.metadata import AttentionMetadata
from vllm_jax.kernels.tpu import attention as tpu
from vllm_jax.kernels.tpu.blocks import BlockSizes
from vllm_jax.models.llama import LlamaConfig, LlamaForCausalLM
from vllm_jax.models.mpt import MptConfig, MptForCausalLM
from vllm_jax.runner import programs
from vllm_jax.runner.model_runner import KVSpec

pytestmark = pytest.mark.skipif(not HAVE_LIBTPU, reason="needs libtpu (the extra verify)")

MIB = 1 << 20
GRID = [
    # chip, heads, KV heads, head dim, page, dtype, dtype of the pages, decode only
    ("v5e", 32, 32, 128, 16, "bfloat16", "bfloat16", False),
    ("v5e", 32, 8, 128, 256, "bfloat16", "bfloat16", True),
    ("v5e", 32, 32, 64, 32, "bfloat16", "bfloat16", False),
    ("v5e", 32, 32, 80, 64, "bfloat16", "bfloat16", True),
    ("v5e", 16, 4, 96, 128, "bfloat16", "float8_e4m3fn", False),
    ("v5e", 8, 8, 64, 64, "float32", "float32", False),
    ("v6e", 32, 8, 128, 64, "bfloat16", "bfloat16", False),
    ("v6e", 16, 16, 256, 64, "bfloat16", "bfloat16", True),
    ("v6e", 71, 1, 64, 16, "bfloat16", "bfloat16", False),
    ("v6e", 12, 12, 80, 32, "bfloat16", "int8", False),
    ("v6e", 32, 8, 128, 32, "bfloat16", "float8_e4m3fn", True),
    ("v5p", 32, 32, 128, 64, "bfloat16", "bfloat16", True),
    ("v5p", 32, 8, 96, 16, "bfloat16", "bfloat16", False),
    ("v5p", 8, 4, 256, 128, "float32", "bfloat16", True),
    ("tpu7x", 32, 8, 128, 64, "bfloat16", "bfloat16", False),
    ("tpu7x", 32, 32, 64, 32, "bfloat16", "float8_e4m3fn", True),
]


def attention(chip, heads, kv_heads, head_dim, page, dtype, kv_dtype, decode_only, *, num_pages=256, **sizes):
    """One layer's attention with every option, and the bytes of its pages."""
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
    return compile_for(chip, attend, arguments, donate=(3,)), pages.size * pages.dtype.itemsize


@pytest.mark.parametrize("case", GRID, ids=lambda case: "-".join(map(str, case)))
def test_compiles_and_updates_the_pages_in_place(case):
    compiled, page_bytes = attention(*case)
    memory = compiled.memory_analysis()
    assert page_bytes <= memory.alias_size_in_bytes < page_bytes * 1.01, "padded, or not donated"
    assert memory.temp_size_in_bytes < 16 * MIB


class TestTheCompilerRefuses:
    """What it does not refuse, the tests above would not prove."""

    def test_unaligned_pages(self, monkeypatch):
        monkeypatch.setattr(tpu, "check_combination", lambda *_: None)
        with pytest.raises(Exception, match="Alignment"):
            attention("v5e", 8, 8, 128, 16, "bfloat16", "int8", True)

    def test_buffers_beyond_vector_memory(self):
        sizes = BlockSizes(1, 4096, 96 * MIB)
        with pytest.raises(Exception, match=r"(?i)vmem|memory"):
            attention("v6e", 32, 32, 128, 64, "bfloat16", "bfloat16", True, decode_sizes=sizes)

    def test_pages_beyond_device_memory(self):
        with pytest.raises(Exception, match=r"(?i)hbm|memory"):
            attention("v5e", 32, 32, 128, 64, "bfloat16", "bfloat16", True, num_pages=20000)


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


def mpt_7b(layers: int):
    config = {
        "model_type": "mpt",
        "d_model": 4096,
        "n_heads": 32,
        "n_layers": layers,
        "expansion_ratio": 4,
        "max_seq_len": 2048,
        "vocab_size": 50432,
        "no_bias": True,
        "attn_config": {"alibi": True},
    }
    return MptConfig.from_hf(config), MptForCausalLM


def llama_3_8b(layers: int):
    config = {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": layers,
        "max_position_embeddings": 8192,
        "vocab_size": 128256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }
    return LlamaConfig.from_hf(config), LlamaForCausalLM


@pytest.mark.parametrize(
    ("family", "layers", "tokens", "chip", "num_pages"),
    [
        (mpt_7b, 32, 16, "v6e", 256),
        (llama_3_8b, 32, 16, "v6e", 1024),
        (mpt_7b, 2, 512, "v5e", 256),
        (llama_3_8b, 2, 512, "v5p", 1024),
    ],
    ids=["mpt-7b-decode", "llama-3-8b-decode", "mpt-2-layers-mixed", "llama-2-layers-mixed"],
)
def test_whole_step(family, layers, tokens, chip, num_pages):
    """A step of the runner: the cache is donated, nothing of its size is made, HBM holds what it should."""
    config, model_class = family(layers)
    model = nnx.eval_shape(lambda: model_class(config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
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
