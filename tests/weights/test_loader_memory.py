"""How much host memory loading takes, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from vllm_jax.models.llama import LlamaConfig, weights

SHARDS = 3
CONFIG = {
    "model_type": "llama",
    "vocab_size": 8192,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
}

MEASURE = """
import json, sys
from pathlib import Path
import jax, jax.numpy as jnp
from vllm_jax.models.load import load_model

directory = Path(sys.argv[1])
jax.block_until_ready(jnp.ones(8) + 1)
config = json.loads((directory / "config.json").read_text())
tiny = {**config, "hidden_size": 16, "intermediate_size": 8, "vocab_size": 8}
load_model(directory, tiny, dtype=jnp.dtype("bfloat16"), load_format="dummy")

def memory(field):  # not getrusage: its maximum begins with that of the parent process
    (line,) = [line for line in open("/proc/self/status") if line.startswith(field)]
    return int(line.split()[1]) * 1024

resident = memory("VmRSS")
loaded = load_model(directory, config, dtype=jnp.dtype("bfloat16"))
print(json.dumps({"growth": memory("VmHWM") - resident, "bytes": loaded.info.num_bytes}))
"""


def write_checkpoint(directory) -> tuple[int, int]:
    """Writes a bfloat16 checkpoint in shards; returns its size and that of the largest shard, in bytes."""
    table = weights(LlamaConfig.from_hf(CONFIG)).weights
    shards: list[dict[str, np.ndarray]] = [{} for _ in range(SHARDS)]
    for weight in table:
        smallest = min(shards, key=lambda shard: sum(array.nbytes for array in shard.values()))
        smallest[weight.name] = np.ones(weight.shape, ml_dtypes.bfloat16)
    index = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{SHARDS:05}.safetensors"
        save_file(shard, directory / name)
        index |= dict.fromkeys(shard, name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (directory / "config.json").write_text(json.dumps(CONFIG))
    sizes = [sum(array.nbytes for array in shard.values()) for shard in shards]
    return sum(sizes), max(sizes)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_peak_host_memory_is_below_the_checkpoint_plus_one_shard(tmp_path):
    """On CPU the device arrays are host memory too, so the checkpoint's own size is always there."""
    total, shard = write_checkpoint(tmp_path)
    assert total > 150e6
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu", "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["bytes"] == total
    assert measured["growth"] < total + shard, {**measured, "shard": shard}
