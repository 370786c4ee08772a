"""Steps of whole models on an accelerator, through the server's own runner, beside what its memory allows.

    PYTHONPATH=. python benchmarks/model_step.py             MPT-7B and Llama-3-8B shapes, random weights
    PYTHONPATH=. python benchmarks/model_step.py --tiny      small ones of the same families, on any device

Decode: one token for each of a batch of sequences with 1k tokens of context, sampled greedily; the next step
is dispatched before the last one is read, as in the server. Its roofline is weights and contexts, read once,
over the measured copy bandwidth. Prefill: 8k new tokens; its roofline is the FLOPs of all products over the
measured bfloat16 matmul rate. Without an accelerator the table says what each step must move and compute, and
"not run".
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.roofline import RUNS, commit, copy_bandwidth, matmul_rate, milliseconds
from vllm_jax.kernels.attention import get_implementation, implementation_for
from vllm_jax.models.registry import build_model, resolve
from vllm_jax.runner.buckets import ShapeRegistry
from vllm_jax.runner.model_runner import KVSpec, ModelRunner
from vllm_jax.runner.program_store import ProgramStore
from vllm_jax.sampling_params import SamplingParams
from vllm_jax.scheduled_batch import ScheduledBatch, ScheduledSequence
from vllm_jax.sequence import Sequence

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "kernels"))
from model_shapes import MODELS

TINY = {
    "mpt-tiny": {**MODELS["mpt-7b"], "d_model": 64, "n_heads": 4, "n_layers": 2, "vocab_size": 128},
    "llama-tiny": {
        **MODELS["llama-3-8b"],
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "vocab_size": 128,
    },
}
GREEDY = SamplingParams(temperature=0.0)
STEPS_A_RUN = 16
MEMORY_KEPT_FREE = 0.06
"""Part of the device's memory that is left to the steps' own arrays."""


@dataclass(frozen=True)
class Step:
    """``rows`` sequences, each with ``q_len`` new tokens at the end of ``context``."""

    rows: int
    q_len: int
    context: int

    @property
    def name(self) -> str:
        """For the table."""
        return f"decode {self.rows} x {self.context}" if self.q_len == 1 else f"prefill {self.q_len}"


@dataclass(frozen=True)
class Model:
    """What the rooflines need to know; ``weights`` are the numbers of those that products read."""

    name: str
    raw: Mapping[str, Any]
    config: Any
    weights: int
    output_weights: int

    @classmethod
    def of(cls, name: str, raw: Mapping[str, Any]) -> Model:
        """From a config.json's content; makes no array."""
        family = resolve(raw)
        config = family.read_config(raw)
        shapes = jax.eval_shape(
            lambda: jax.tree.leaves(nnx_state(build_model(family, config, dtype=jnp.bfloat16, seed=0)))
        )
        matrices = sum(leaf.size for leaf in shapes if leaf.ndim > 1)
        width = raw.get("hidden_size") or raw["d_model"]
        table = config.vocab_size * width
        tied = raw["model_type"] == "mpt" or raw.get("tie_word_embeddings", False)
        return cls(name, raw, config, matrices - (0 if tied else table), table)

    @property
    def kv_token_bytes(self) -> int:
        """Keys and values of one token in all layers, bfloat16."""
        return 4 * self.config.num_layers * self.config.num_kv_heads * self.config.head_dim

    def bytes(self, step: Step) -> int:
        """That a step must read: every weight and every visible key and value once."""
        return 2 * self.weights + step.rows * step.context * self.kv_token_bytes

    def flops(self, step: Step) -> int:
        """Of all products; logits are computed for a row's last token only."""
        tokens = step.rows * step.q_len
        pairs = step.rows * (step.q_len * step.context - step.q_len * (step.q_len - 1) // 2)
        features = self.config.num_heads * self.config.head_dim
        inner = 2 * (self.weights - self.output_weights) * tokens + 2 * self.output_weights * step.rows
        return inner + 4 * self.config.num_layers * pairs * features


def nnx_state(model: Any) -> Any:
    """The model's arrays."""
    from flax import nnx

    return nnx.state(model)


def make_runner(
    model: Model, steps: list[Step], room: float | None, store: ProgramStore | None = None
) -> tuple[ModelRunner, int]:
    """A warm runner whose cache holds the largest step that fits into ``room`` bytes; and its pages."""
    device = jax.devices()[0]
    implementation = implementation_for(device.platform)
    config = model.config
    spec = KVSpec(
        num_layers=config.num_layers,
        page_size=get_implementation(implementation).page_size,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        dtype=jnp.dtype(jnp.bfloat16),
        implementation=implementation,
    )
    sizes = sorted(pages_of(step, spec.page_size) * step.rows for step in steps)
    fitting = [n for n in sizes if room is None or n * spec.bytes_per_page + 2 * model.weights <= room]
    if not fitting:
        raise MemoryError(f"not even the smallest step of {model.name} fits")
    most = max(step.context + steps_taken() for step in steps)
    runner = ModelRunner(
        build_model(resolve(model.raw), config, dtype=jnp.bfloat16, seed=0),
        vocab_size=config.vocab_size,
        kv_spec=spec,
        registry=ShapeRegistry(
            max(step.rows for step in steps), max(step.rows * step.q_len for step in steps)
        ),
        max_model_len=most,
        max_logprobs=0,
        device=device,
        hidden=(config.hidden_size, jnp.dtype(jnp.bfloat16)),
        identity=f"{model.name} {config}",
        store=store,
    )
    runner.allocate(fitting[-1])
    runner.warm_up()
    return runner, fitting[-1]


def steps_taken() -> int:
    """Tokens that a decoding sequence grows by in one measurement."""
    return STEPS_A_RUN * (RUNS + 1)


def pages_of(step: Step, page_size: int) -> int:
    """Pages of one sequence, room for the steps of a measurement included."""
    return -(-(step.context + (steps_taken() if step.q_len == 1 else 0)) // page_size)


def step_seconds(runner: ModelRunner, step: Step, params: SamplingParams = GREEDY) -> float:
    """Median time of one step, of several that are dispatched behind each other."""
    each = pages_of(step, runner.kv_spec.page_size)
    table = np.random.default_rng(0).permutation(each * step.rows).reshape(step.rows, each)
    sequences = [
        Sequence(f"{row}", f"{row}", 0, [1] * step.context, params, seed=row) for row in range(step.rows)
    ]
    start = step.context - step.q_len

    def batch(first: int, resumed: bool) -> ScheduledBatch:
        rows = [
            ScheduledSequence(seq, first, step.q_len, True, row, table[row].tolist(), resumed)
            for row, seq in enumerate(sequences)
        ]
        # After its first step a decoding sequence takes its token from the device.
        return ScheduledBatch(rows, num_decodes=len(rows) if step.q_len == 1 and not resumed else 0)

    runner.execute(batch(start, True)).read()
    repeats = STEPS_A_RUN if step.q_len == 1 else 2
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        for _ in range(repeats):
            start += step.q_len == 1
            dispatched = runner.execute(batch(start, False))
        dispatched.read()
        times.append((time.perf_counter() - began) / repeats)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="small models and batches, run on any device")
    options = parser.parse_args()
    batches, context, prompt = ((1, 4), 64, 128) if options.tiny else ((1, 16, 64, 256), 1024, 8192)
    steps = [*(Step(rows, 1, context) for rows in batches), Step(1, prompt, prompt)]
    models = [Model.of(*item) for item in (TINY if options.tiny else MODELS).items()]
    device = jax.devices()[0]
    on_accelerator = device.platform != "cpu"
    print(f"device {device.device_kind}, jax {jax.__version__}, commit {commit()}")
    bandwidth = rate = room = None
    if on_accelerator:
        bandwidth, rate = copy_bandwidth(), matmul_rate()
        room = (device.memory_stats() or {})["bytes_limit"] * (1 - MEMORY_KEPT_FREE)
        print(f"copy {bandwidth / 1e12:.2f} TB/s, bfloat16 matmul {rate / 1e12:.0f} TFLOP/s")
    else:
        print("no accelerator: " + ("times say nothing" if options.tiny else "times are not run"))
    print("\n| model, step | GB | GFLOP | roofline ms | step ms | of roofline |\n|---|---|---|---|---|---|")
    for model in models:
        runner, num_pages = make_runner(model, steps, room) if on_accelerator or options.tiny else (None, 0)
        for step in steps:
            print(row(model, step, runner, num_pages, bandwidth, rate), flush=True)
        del runner


def row(
    model: Model,
    step: Step,
    runner: ModelRunner | None,
    num_pages: int,
    bandwidth: float | None,
    rate: float | None,
) -> str:
    """One line of the table. Decode is held against the memory, prefill against the products."""
    fields = [
        f"{model.name} {step.name}",
        f"{model.bytes(step) / 1e9:.3g}",
        f"{model.flops(step) / 1e9:.1f}",
    ]
    if runner is None:
        return f"| {' | '.join([*fields, *['not run'] * 3])} |"
    if pages_of(step, runner.kv_spec.page_size) * step.rows > num_pages:
        return f"| {' | '.join([*fields, *['does not fit'] * 3])} |"
    took = step_seconds(runner, step)
    if bandwidth is None or rate is None:
        return f"| {' | '.join([*fields, 'not run', milliseconds(took), 'not run'])} |"
    least = model.bytes(step) / bandwidth if step.q_len == 1 else model.flops(step) / rate
    return f"| {' | '.join([*fields, milliseconds(least), milliseconds(took), f'{least / took:.0%}'])} |"


if __name__ == "__main__":
    main()
