"""The GPU kernels lower to Triton for CUDA, over the heads, head dims, pages and dtypes that are supported.

Needs neither a GPU nor CUDA: what Triton does not have (sizes that are no powers of two, casts, missing
primitives) fails here. Whether it compiles is for ``test_gpu_verify.py``.
"""

from __future__ import annotations

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import export
from jax.sharding import AbstractDevice, AbstractMesh

from vllm_jax.kernels.attention import kv_pages_dtype, kv_pages_shape, paged_attention
from vllm_jax.kernels.gpu import blocks
from vllm_jax.kernels.metadata import AttentionMetadata

HEADS = [(32, 32), (32, 8), (28, 4), (71, 1)]
HEAD_DIMS = [64, 80, 96, 128, 256]
PAGES = [16, 64, 256, 48]
DTYPES = [
    ("bfloat16", "bfloat16"),
    ("float32", "float32"),
    ("bfloat16", "int8"),
    ("bfloat16", "float8_e4m3fn"),
    ("float32", "bfloat16"),
]
H100 = AbstractMesh(
    (1,), ("x",), abstract_device=AbstractDevice("NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
)
TRITON = export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")


def lower(
    heads: tuple[int, int], head_dim: int, page: int, dtypes: tuple[str, str], *, decode_only: bool, **options
) -> str:
    """The operation over 4 rows and 32 tokens (4 if ``decode_only``), as StableHLO for CUDA."""
    num_heads, num_kv_heads = heads
    dtype, stored = dtypes
    rows, tokens = 4, 4 if decode_only else 32
    shape = kv_pages_shape(64, page, num_kv_heads, head_dim, implementation="gpu")
    ints = partial(jax.ShapeDtypeStruct, dtype=jnp.int32)

    def attend(q, k, v, pages, page_table, kv_lens, cu_q_lens):
        metadata = AttentionMetadata(page_table, kv_lens, cu_q_lens, decode_only, "gpu")
        return paged_attention(q, k, v, pages, metadata, scale=0.1, implementation="gpu", **options)

    with jax.sharding.use_abstract_mesh(H100):
        exported = export.export(jax.jit(attend), platforms=["cuda"], disabled_checks=[TRITON])(
            jax.ShapeDtypeStruct((tokens, num_heads, head_dim), dtype),
            jax.ShapeDtypeStruct((tokens, num_kv_heads, head_dim), dtype),
            jax.ShapeDtypeStruct((tokens, num_kv_heads, head_dim), dtype),
            jax.ShapeDtypeStruct(shape, kv_pages_dtype(jnp.dtype(stored), implementation="gpu")),
            ints((rows, 8)),
            ints((rows,)),
            ints((rows + 1,)),
        )
    return exported.mlir_module()


@pytest.mark.parametrize(("heads", "head_dim"), list(itertools.product(HEADS, HEAD_DIMS)))
def test_heads_and_head_dims(heads, head_dim):
    """Pages, dtypes and options go round: over the grid each meets each of the sizes' kinds."""
    turn = HEADS.index(heads) + HEAD_DIMS.index(head_dim)
    dtypes = DTYPES[turn % len(DTYPES)]
    quantized = {"k_scale": 0.1, "v_scale": 0.2} if dtypes[1] == "int8" else {}
    module = lower(
        heads,
        head_dim,
        PAGES[turn % len(PAGES)],
        dtypes,
        decode_only=False,
        alibi_slopes=jnp.ones(heads[0]) if turn % 2 else None,
        sinks=jnp.ones(heads[0]) if turn % 3 == 0 else None,
        sliding_window=100 if turn % 4 < 2 else None,
        soft_cap=20.0 if turn % 3 == 1 else None,
        **quantized,
    )
    for kernel in ("paged_decode", "paged_decode_combine", "paged_prefill"):
        assert f'"{kernel}"' in module


@pytest.mark.parametrize(("page", "dtypes"), list(itertools.product(PAGES, DTYPES)))
def test_pages_and_dtypes(page, dtypes):
    scales = {"k_scale": 0.1, "v_scale": 0.2} if dtypes[1] == "int8" else {}
    module = lower((8, 2), 128, page, dtypes, decode_only=True, **scales)
    assert '"paged_decode"' in module and '"paged_prefill"' not in module


def test_lowering_does_fail(monkeypatch):
    """Blocks of a head dim that is no power of two: Triton has none, and this test would notice."""
    monkeypatch.setattr(blocks, "power_of_two", lambda n: n)
    with pytest.raises(ValueError, match="power of 2"):
        lower((16, 1), 80, 16, DTYPES[0], decode_only=True)
