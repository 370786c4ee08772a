"""Paged attention split over the heads of four devices. Run as a program, which needs a JAX of its own.

    python sharded_attention.py < names.json > reports.json

Every device has the pages of its own heads, in the layout of a model with that many heads.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh, PartitionSpec
from ragged_batches import Batch, Setup, expected_output, expected_pages, make_batch
from tpu_batches import VMEM, races_found, tpu_pages

from vllm_jax.kernels import xla
from vllm_jax.kernels.gpu import attention as gpu
from vllm_jax.kernels.tpu import attention as tpu
from vllm_jax.kernels.tpu.blocks import BlockSizes

DEVICES = 4
THREADS = 16
"""JAX gives its CPU devices as many threads as there are devices. In interpret mode a device holds one until
all others have come, which themselves need one to copy what the kernels take: four would wait for ever."""
SETUP = Setup(8, 4, 64, window=37, sinks=True, soft_cap=6.0, rows=4, pages_per_row=6, num_pages=24, tokens=32)
DECODE = replace(SETUP, tokens=4, decode_only=True)
BATCHES = {
    "mixed": (SETUP, [1, 12, 0, 5], [90, 12, 0, 40]),
    "decode": (DECODE, [1, 0, 1, 1], [28, 0, 1, 70]),
}


def tpu_attention(mode: str):
    """The TPU kernels in interpret mode, with races detected."""
    return partial(
        tpu.paged_attention,
        decode_sizes=BlockSizes(1, 32, VMEM),
        prefill_sizes=BlockSizes(8, 32, VMEM),
        interpret=pltpu.InterpretParams(dma_execution_mode=mode, detect_races=True),
    )


# By name: the operation, and the pages' axis that the heads are on.
OPERATIONS = {
    "xla": (xla.paged_attention, 2),
    "gpu": (partial(gpu.paged_attention, interpret=True), 2),
    "tpu on_wait": (tpu_attention("on_wait"), 1),
    "tpu eager": (tpu_attention("eager"), 1),
}


def arranged(pages: np.ndarray, setup: Setup, name: str) -> np.ndarray:
    """The common layout as the implementation's, the heads of one device after another's."""
    if name == "gpu":
        return pages.view(setup.stored_dtype)
    if name == "xla":
        return pages
    parts = [tpu_pages(part, setup) for part in np.split(pages, DEVICES, axis=2)]
    return np.concatenate(parts, axis=1)


def report(name: str, batch: Batch, *, wrong: bool) -> dict:
    """How far the split operation is from the oracle; with ``wrong`` each device has another's slopes."""
    setup = batch.setup
    attend, axis = OPERATIONS[name]
    by_head = PartitionSpec(None, "heads")
    by_page_axis = PartitionSpec(*[None] * axis, "heads")
    a_head = PartitionSpec("heads")

    def local(q, k, v, pages, metadata, slopes, sinks):
        return attend(
            q,
            k,
            v,
            pages,
            metadata,
            scale=setup.scale,
            alibi_slopes=slopes,
            sinks=sinks,
            sliding_window=setup.window,
            soft_cap=setup.soft_cap,
        )

    split = jax.shard_map(
        local,
        mesh=Mesh(np.array(jax.devices()[:DEVICES]), ("heads",)),
        in_specs=(by_head, by_head, by_head, by_page_axis, PartitionSpec(), a_head, a_head),
        out_specs=(by_head, by_page_axis),
        check_vma=False,
    )
    slopes = np.roll(setup.slopes, setup.heads // DEVICES if wrong else 0)
    out, pages = jax.jit(split)(
        batch.q,
        batch.k,
        batch.v,
        jnp.asarray(arranged(np.asarray(batch.pages), setup, name)),
        batch.metadata(name.split()[0]),
        jnp.asarray(slopes),
        jnp.asarray(setup.sink_scores),
    )
    expected = arranged(expected_pages(batch), setup, name)
    return {
        "devices": len(out.sharding.device_set),
        "error": float(np.abs(np.asarray(out) - expected_output(batch)).max()),
        "pages": bool(np.array_equal(np.asarray(pages), expected, equal_nan=True)),
        "races": name.startswith("tpu") and races_found(),
    }


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", THREADS)
    found = {}
    for name, kind, wrong in json.load(sys.stdin):
        setup, q_lens, kv_lens = BATCHES[kind]
        found[f"{name} {kind}{' wrong' if wrong else ''}"] = report(
            name, make_batch(setup, q_lens, kv_lens, seed=21), wrong=wrong
        )
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
