"""The TPU kernels lower for three kinds of TPU, without one and without its compiler.

This finds block shapes and operations that TPUs do not have; not too much memory, nor bad alignment
(``test_tpu_verify.py`` does, with the compiler).
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from vllm_jax.errors import ConfigError
from vllm_jax.kernels.attention import kv_pages_dtype, kv_pages_shape, paged_attention
from vllm_jax.kernels.metadata import AttentionMetadata

KINDS = {"v5e": "TPU v5 lite", "v6e": "TPU v6 lite", "v5p": "TPU v5p"}
GRID = [
    # chip, heads, KV heads, head dim, page, dtype, dtype of the pages, decode only
    ("v5e", 32, 32, 128, 16, "bfloat16", "bfloat16", True),
    ("v5e", 8, 2, 64, 16, "bfloat16", "float8_e4m3fn", False),
    ("v5p", 6, 6, 80, 128, "bfloat16", "bfloat16", False),
    ("v5p", 8, 1, 96, 64, "float32", "float32", True),
    ("v6e", 8, 4, 256, 256, "bfloat16", "int8", True),
    ("v6e", 32, 8, 128, 64, "bfloat16", "bfloat16", False),
]


def lower(chip, heads, kv_heads, head_dim, page, dtype, kv_dtype, decode_only, *, pages_per_seq=64):
    num_seqs, num_tokens = 8, 8 if decode_only else 64
    pages = jax.ShapeDtypeStruct(
        kv_pages_shape(64, page, kv_heads, head_dim, implementation="tpu"),
        kv_pages_dtype(jnp.dtype(kv_dtype), implementation="tpu"),
    )

    def attend(q, k, v, pages, page_table, kv_lens, cu_q_lens, per_head):
        metadata = AttentionMetadata(page_table, kv_lens, cu_q_lens, decode_only, "tpu")
        call = partial(paged_attention, q, k, v, pages, metadata, implementation="tpu")
        return call(
            scale=0.1, alibi_slopes=per_head, sinks=per_head, sliding_window=100, k_scale=0.1, v_scale=0.1
        )

    def ints(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    kv = jax.ShapeDtypeStruct((num_tokens, kv_heads, head_dim), dtype)
    device = AbstractDevice(device_kind=KINDS[chip], num_cores=1, platform="tpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device)):
        return jax.export.export(jax.jit(attend), platforms=["tpu"])(
            jax.ShapeDtypeStruct((num_tokens, heads, head_dim), dtype),
            kv,
            kv,
            pages,
            ints(num_seqs, pages_per_seq),
            ints(num_seqs),
            ints(num_seqs + 1),
            jax.ShapeDtypeStruct((heads,), jnp.float32),
        )


@pytest.mark.parametrize("case", GRID, ids=lambda case: "-".join(map(str, case)))
def test_lowers(case):
    text = lower(*case).mlir_module()
    kernels = ("paged_decode",) if case[-1] else ("write_pages", "paged_decode", "paged_prefill")
    assert text.count("tpu_custom_call") >= len(kernels)
    for name in kernels:
        assert name in text


def test_a_page_table_beyond_scalar_memory_is_refused():
    with pytest.raises(ConfigError, match=r"8 sequences x 30000 pages.*--block-size"):
        lower(*GRID[0], pages_per_seq=30000)
