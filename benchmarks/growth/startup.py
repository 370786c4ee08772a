"""From the start of a server's process to its first token, over the size of the model.

Random Llamas are written for it, measured and deleted. "model size": 16 layers that grow in width. "layers":
one width, more and more layers. The files are in the page cache, since they have just been written: this is
the cost of a start, not that of a disk. Weights and programs are what the start-up summary says (to a tenth
of a second); the rest is Python, imports, and the first answer.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from api.bench.startup import Start, measure_start
from benchmarks.growth.curves import Curve, write
from vllm_jax.demo import demo_model_path
from vllm_jax.models.registry import resolve

SIZE, LAYERS = "startup", "layers"
VOCAB = 32000
HEAD = 64
# Hidden size, feed-forward size, key-value heads; 16 layers.
SIZES = {
    "25M": (320, 704, 1),
    "50M": (512, 1024, 2),
    "100M": (768, 1344, 4),
    "250M": (1152, 2816, 6),
    "500M": (1536, 4800, 8),
    "1B": (2048, 8192, 8),
}
FLAGS = ("--max-model-len=1024", "--kv-cache-memory-bytes=268435456")
_SAID = re.compile(r"loaded in ([\d.]+) s, \d+ programs ready in ([\d.]+) s")
_START_TIMEOUT_S = 300.0


def config(hidden: int, inner: int, kv_heads: int, layers: int = 16) -> dict[str, Any]:
    """The config.json of a Llama with heads of 64."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // HEAD,
        "num_key_value_heads": kv_heads,
        "head_dim": HEAD,
        "vocab_size": VOCAB,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }


def write_checkpoint(directory: Path, raw: Mapping[str, Any], seed: int = 0) -> int:
    """A checkpoint of random bfloat16 weights, with the demo's tokenizer; the number of its parameters."""
    family = resolve(raw)
    rng = np.random.default_rng(seed)
    tensors = {}
    for weight in family.weights(family.read_config(raw)).weights:
        drawn = rng.standard_normal(weight.shape, np.float32)
        drawn = 1 + 0.1 * drawn if len(weight.shape) == 1 else drawn * weight.shape[-1] ** -0.5
        tensors[weight.name] = drawn.astype(ml_dtypes.bfloat16)
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps(dict(raw)))
    for file in demo_model_path().glob("*token*.json"):
        shutil.copy(file, directory)
    return sum(tensor.size for tensor in tensors.values())


def parts(start: Start, log: str) -> dict[str, float]:
    """Seconds of a start by what they went into; ``log`` is what the server has said."""
    found = _SAID.search(" ".join(log.split()))
    assert found is not None, f"no summary of the start in: {log[-500:]}"
    weights, programs = map(float, found.groups())
    return {
        "first token": start.first_token_s,
        "weights": weights,
        "programs": programs,
        "rest": start.first_token_s - weights - programs,
    }


def measure(checkpoint: Path, cache: Path, cold: int, warm: int) -> dict[str, float]:
    """Medians, s: of ``cold`` starts with nothing on disk, and of ``warm`` ones. ``cache`` is kept."""
    samples: dict[str, list[float]] = {}
    words = [str(checkpoint), *FLAGS]
    for number in range(cold + warm):
        is_cold = number < cold
        if is_cold:
            shutil.rmtree(cache, ignore_errors=True)
        elif not cache.exists():
            measure_start("unmeasured", words, cache, _START_TIMEOUT_S)
        start = measure_start("cold" if is_cold else "warm", words, cache, _START_TIMEOUT_S)
        found = parts(start, (cache / "log.txt").read_text())
        for name, seconds in found.items():
            if not is_cold:
                samples.setdefault(name, []).append(seconds)
            elif name in ("first token", "programs"):
                samples.setdefault(f"{name}, nothing on disk", []).append(seconds)
    return {name: statistics.median(values) for name, values in samples.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=SIZES, help="model sizes")
    parser.add_argument("--layers", type=int, nargs="*", default=[], help="a small model of so many layers")
    parser.add_argument("--cold", type=int, default=0, help="starts with nothing on disk")
    parser.add_argument("--warm", type=int, default=3, help="starts with the programs of one before")
    parser.add_argument("--scratch", type=Path, help="keep checkpoints and programs here for the next run")
    parser.add_argument("--out", type=Path, required=True, help="write the curves to this file")


def run(args: argparse.Namespace) -> None:
    models = [(SIZE, size, config(*SIZES[size])) for size in args.sizes]
    models += [(LAYERS, str(layers), config(256, 512, 2, layers)) for layers in args.layers]
    curves: dict[tuple[str, str], dict[float, float]] = {}
    with tempfile.TemporaryDirectory(prefix="growth-") as temporary:
        scratch = args.scratch or Path(temporary)
        for panel, name, raw in models:
            checkpoint = scratch / f"{panel}-{name}"
            if checkpoint.exists():
                parameters = (checkpoint / "model.safetensors").stat().st_size / 2
            else:
                parameters = write_checkpoint(checkpoint, raw)
            x = parameters / 1e6 if panel == SIZE else raw["num_hidden_layers"]
            found = measure(checkpoint, scratch / f"{panel}-{name}-programs", args.cold, args.warm)
            print(f"{panel} {name}: " + ", ".join(f"{k} {v:.2f}" for k, v in found.items()), flush=True)
            for kind, seconds in found.items():
                curves.setdefault((panel, kind), {})[x] = seconds
            if args.scratch is None:
                shutil.rmtree(checkpoint)
    write(
        args.out,
        [Curve(panel, kind, list(points), list(points.values())) for (panel, kind), points in curves.items()],
        cold=args.cold,
        warm=args.warm,
    )
