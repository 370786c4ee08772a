"""Compiles attention and whole steps for GPUs that are not here, and says what came out. Run as a program.

    python gpu_compiler.py h100 < cases.json > reports.json

XLA's CUDA plugin compiles for a described GPU without a driver. Its PTX goes through ``ptxas -v`` for
registers and spills; the dump has to be asked for before the backend starts, hence a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from model_shapes import MODELS

DESCRIPTION = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared_per_core}
  shared_memory_per_block_optin: {shared_per_block}
  threads_per_core_limit: 2048
  core_count: {cores}
  fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: {l2}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  cuda_compute_capability {{ major: {major} minor: 0 }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
device_description_str: "{name}"
"""

GPUS: dict[str, dict[str, Any]] = {
    "h100": {
        "shared_per_core": 233472,
        "shared_per_block": 232448,
        "cores": 132,
        "fpus": 128,
        "bandwidth": 3352320000000,
        "l2": 52428800,
        "clock": 1.98,
        "memory": 84942979072,
        "major": 9,
        "name": "NVIDIA H100 80GB HBM3",
    },
    "a100": {
        "shared_per_core": 167936,
        "shared_per_block": 166912,
        "cores": 108,
        "fpus": 64,
        "bandwidth": 2039000000000,
        "l2": 41943040,
        "clock": 1.41,
        "memory": 84942979072,
        "major": 8,
        "name": "NVIDIA A100-SXM4-80GB",
    },
}
ARCHITECTURES = {"h100": "sm_90a", "a100": "sm_80"}


@cache
def abstract(gpu: str) -> Any:
    """``(shape, dtype)`` -> an array's description on the described GPU."""
    import jax
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        target_config=DESCRIPTION.format(**GPUS[gpu]),
        topology="1x1x1",
    )
    [device] = topology.devices
    assert device.platform == "gpu", "the name that PLATFORM_IMPLEMENTATION knows"
    return partial(jax.ShapeDtypeStruct, sharding=jax.sharding.SingleDeviceSharding(device))


def attention(gpu: str, case: dict[str, Any]) -> tuple[Any, int]:
    """The compiled operation, and the bytes of its pages."""
    import jax
    import jax.numpy as jnp

    from vllm_jax.kernels.attention import kv_pages_dtype, kv_pages_shape, paged_attention
    from vllm_jax.kernels.metadata import AttentionMetadata

    array = abstract(gpu)
    heads, kv_heads, head_dim, page = (case[key] for key in ("heads", "kv_heads", "head_dim", "page"))
    rows, tokens, decode_only = case["rows"], case["tokens"], case["tokens"] == case["rows"]
    shape = kv_pages_shape(case["num_pages"], page, kv_heads, head_dim, implementation="gpu")
    stored = kv_pages_dtype(jnp.dtype(case["kv_dtype"]), implementation="gpu")

    def attend(q, k, v, pages, page_table, kv_lens, cu_q_lens, a_head):
        return paged_attention(
            q,
            k,
            v,
            pages,
            AttentionMetadata(page_table, kv_lens, cu_q_lens, decode_only, "gpu"),
            scale=head_dim**-0.5,
            alibi_slopes=a_head if case.get("alibi") else None,
            sinks=a_head if case.get("sinks") else None,
            sliding_window=case.get("window"),
            soft_cap=case.get("soft_cap"),
            k_scale=0.1 if case["kv_dtype"] == "int8" else None,
            v_scale=0.2 if case["kv_dtype"] == "int8" else None,
            implementation="gpu",
        )

    arguments = (
        array((tokens, heads, head_dim), case["dtype"]),
        array((tokens, kv_heads, head_dim), case["dtype"]),
        array((tokens, kv_heads, head_dim), case["dtype"]),
        array(shape, stored),
        array((rows, case["capacity"] // page), jnp.int32),
        array((rows,), jnp.int32),
        array((rows + 1,), jnp.int32),
        array((heads,), jnp.float32),
    )
    traced = jax.jit(attend, donate_argnums=3).trace(*arguments)
    compiled = traced.lower(lowering_platforms=("cuda",)).compile()
    return compiled, arguments[3].size * stored.itemsize


def step(gpu: str, case: dict[str, Any]) -> tuple[Any, int]:
    """A compiled forward program of a whole model, and the bytes of its KV cache."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from vllm_jax.kernels.attention import kv_pages_dtype, kv_pages_shape
    from vllm_jax.models.registry import resolve
    from vllm_jax.runner import programs

    array = abstract(gpu)
    raw = MODELS[case["model"]]
    family = resolve(raw)
    config = family.read_config(raw)
    dtype = jnp.dtype(jnp.bfloat16)
    model = nnx.eval_shape(lambda: family.build(config, dtype=dtype, rngs=nnx.Rngs(0)))
    leaves, rebuild = programs.rebuilder(model)
    rows, tokens, page = case["rows"], case["tokens"], case["page"]
    layout = programs.StepLayout(tokens, rows, case["capacity"] // page)
    shape = kv_pages_shape(
        case["num_pages"], page, config.num_kv_heads, config.head_dim, implementation="gpu"
    )
    pages = array(shape, kv_pages_dtype(dtype, implementation="gpu"))
    forward = partial(
        programs.forward,
        rebuild=rebuild,
        layout=layout,
        decode_only=tokens == rows,
        implementation="gpu",
    )
    compiled = (
        jax.jit(forward, donate_argnums=1)
        .trace(
            [array(leaf.shape, leaf.dtype) for leaf in leaves],
            [pages] * config.num_layers,
            array((rows, case["capacity"]), jnp.int32),
            array((layout.size,), jnp.int32),
        )
        .lower(lowering_platforms=("cuda",))
        .compile()
    )
    return compiled, config.num_layers * pages.size * pages.dtype.itemsize


def kernels(gpu: str, dump: Path) -> dict[str, dict[str, int]]:
    """By kernel, of what lies in ``dump``: registers, bytes spilled, products by wgmma. Empties the dump."""
    found = {}
    for path in sorted(dump.glob("*.ptx")):
        text = path.read_text()
        names = re.findall(r"\.entry (paged_\w+)", text)
        if names:
            command = ["ptxas", f"-arch={ARCHITECTURES[gpu]}", "-v", str(path), "-o", os.devnull]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
            stores, loads = (int(re.search(rf"(\d+) bytes spill {k}", said)[1]) for k in ("stores", "loads"))
            used = int(re.search(r"Used (\d+) registers", said)[1])
            found[names[0]] = {
                "registers": used,
                "spills": stores + loads,
                "wgmma": text.count("wgmma.mma_async"),
            }
    shutil.rmtree(dump)
    dump.mkdir()
    return found


def report(gpu: str, case: dict[str, Any], dump: Path) -> dict[str, Any]:
    """What the compiler made of one case; sizes in bytes."""
    import jax
    from jax.sharding import AbstractDevice, AbstractMesh

    # What a kernel is lowered for; the arrays' own device is not consulted.
    device = AbstractDevice(GPUS[gpu]["name"], num_cores=GPUS[gpu]["cores"], platform="gpu")
    try:
        with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device)):
            compiled, cache_bytes = step(gpu, case) if "model" in case else attention(gpu, case)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    memory, text = compiled.memory_analysis(), compiled.as_text()
    return {
        "kernels": kernels(gpu, dump),
        "cache": cache_bytes,
        "aliased": memory.alias_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "peak": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        "copies": [line.strip()[:200] for line in text.splitlines() if re.search(r" copy(-start)?\(", line)],
    }


def main() -> None:
    """Reads a list of cases, writes a list of reports."""
    [gpu] = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_PLATFORMS"] = "cpu"
        # From jax 0.11 on, PTX is dumped with everything else that is emitted, which is a lot.
        more = "" if version("jaxlib").startswith("0.10.") else " --xla_dump_emitter_re=.*"
        os.environ["XLA_FLAGS"] = f"--xla_dump_to={folder}{more}"
        reports = [report(gpu, case, Path(folder)) for case in json.load(sys.stdin)]
    json.dump(reports, sys.stdout)


if __name__ == "__main__":
    main()
