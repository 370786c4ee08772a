"""The GPU kernels compiled for an H100 and an A100 that are not here. Skipped without the CUDA plugin.

    pip install --no-deps jax-cuda13-plugin jax-cuda13-pjrt     (of jax's own version; no driver is needed)

What must hold: everything compiles to machine code, decode spills no registers, prefill multiplies with the
H100's own instructions, and a step of a whole model updates its KV cache in place.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from functools import cache
from itertools import product
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the wheels of JAX's CUDA plugin"
    ),
    pytest.mark.skipif(shutil.which("ptxas") is None, reason="needs ptxas, of the CUDA toolkit"),
]

HEADS = [(32, 32), (32, 8), (28, 4), (32, 1)]
HEAD_DIMS = [64, 80, 96, 128, 256]
PAGES = [16, 64, 256]
DTYPES = [
    ("bfloat16", "bfloat16"),
    ("bfloat16", "int8"),
    ("bfloat16", "float8_e4m3fn"),
    ("float32", "float32"),
]
SIZES = {"bfloat16": 2, "int8": 1, "float8_e4m3fn": 1, "float32": 4}
GPUS = ["h100", "a100"]


def cases(gpu: str) -> list[dict]:
    """Every head layout with every head dim in bfloat16, and a selection of the other dtypes."""
    found = []
    for (i, (heads, kv_heads)), (j, head_dim) in product(enumerate(HEADS), enumerate(HEAD_DIMS)):
        for dtype, kv_dtype in (DTYPES[0], DTYPES[1 + (i + j) % 3])[: 1 + (i + j) % 2]:
            if gpu == "a100" and kv_dtype == "float8_e4m3fn":
                kv_dtype = "int8"  # refused by check_combination
            page = PAGES[(i + j) % len(PAGES)]
            # One of them is beyond 4 GiB, where offsets take 64 bits.
            cache_bytes = (
                6 << 30 if (heads, kv_heads, head_dim, dtype) == (32, 8, 128, "bfloat16") else 256 << 20
            )
            page_bytes = 2 * kv_heads * page * head_dim * SIZES[kv_dtype]
            found.append(
                {
                    "heads": heads,
                    "kv_heads": kv_heads,
                    "head_dim": head_dim,
                    "page": page,
                    "dtype": dtype,
                    "kv_dtype": kv_dtype,
                    "rows": 16,
                    "tokens": 256,
                    "num_pages": cache_bytes // page_bytes,
                    "capacity": 4096,
                    "alibi": (i + j) % 2 == 0,
                    "window": 500 if j % 3 == 0 else None,
                    "soft_cap": 30.0 if j % 4 == 3 else None,
                    "sinks": j % 3 == 1,
                }
            )
    return found


STEPS = [
    {"model": "llama-3-8b", "rows": 16, "tokens": 16, "page": 64, "capacity": 8192, "num_pages": 1024},
    {"model": "mpt-7b", "rows": 16, "tokens": 512, "page": 64, "capacity": 2048, "num_pages": 512},
]


def compiled(gpu: str, wanted: list[dict]) -> list[dict]:
    """Reports of ``gpu_compiler.py``, in the order of the cases."""
    command = [sys.executable, str(Path(__file__).with_name("gpu_compiler.py")), gpu]
    done = subprocess.run(command, input=json.dumps(wanted), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@cache
def grid(gpu: str) -> list[tuple[dict, dict]]:
    return list(zip(cases(gpu), compiled(gpu, cases(gpu)), strict=True))


@pytest.mark.parametrize("gpu", GPUS)
def test_everything_compiles(gpu):
    failed = [(case, report["error"]) for case, report in grid(gpu) if "error" in report]
    assert not failed, failed


@pytest.mark.parametrize("gpu", GPUS)
def test_decode_spills_no_registers(gpu):
    for case, report in grid(gpu):
        kernels = report["kernels"]
        assert set(kernels) == {"paged_decode", "paged_decode_combine", "paged_prefill"}
        for name in ("paged_decode", "paged_decode_combine"):
            assert kernels[name]["spills"] == 0, (name, case, kernels)


@pytest.mark.parametrize("gpu", GPUS)
def test_prefill_spills_next_to_nothing(gpu):
    """A few registers around the loops, none of its tiles; a tile that spills is ten thousands of bytes."""
    worst = max(report["kernels"]["paged_prefill"]["spills"] for _, report in grid(gpu))
    assert worst <= 512, [(case, report["kernels"]) for case, report in grid(gpu)]


def test_prefill_uses_the_instructions_of_the_h100():
    for case, report in grid("h100"):
        if case["dtype"] == "bfloat16":
            assert report["kernels"]["paged_prefill"]["wgmma"] > 0, case


@pytest.mark.parametrize("gpu", GPUS)
def test_the_cache_is_updated_in_place(gpu):
    for case, report in grid(gpu):
        assert report["aliased"] >= report["cache"], case
        assert report["temporary"] < report["cache"] / 4, case
        assert not [line for line in report["copies"] if f"{case['head_dim']}]" in line], report["copies"]


def test_shared_memory_that_does_not_suffice_is_an_error():
    """The negative control: a page table is no trouble, but 64 keys of 2048 features are."""
    [report] = compiled("a100", [{**cases("a100")[0], "head_dim": 2048}])
    assert "multiple of 16 up to 256, not 2048" in report["error"]


def test_steps_of_whole_models():
    """8 billion parameters and the cache, donated: not one copy of a layer's pages, little beside them."""
    for case, report in zip(STEPS, compiled("h100", STEPS), strict=True):
        assert "error" not in report, report["error"]
        assert report["aliased"] >= report["cache"] > 4e9, case
        assert report["temporary"] < 0.5e9, (case, report["temporary"])
        assert report["peak"] < 40e9, (case, report["peak"])
        pages = f"{case['num_pages']},2,"
        assert not [line for line in report["copies"] if pages in line], report["copies"]
