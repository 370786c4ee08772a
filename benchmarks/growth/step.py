"""The time of a decode step over batch, context and vocabulary; the server's own runner, without a scheduler.

A Llama of 100M parameters in bfloat16 with random weights. Beside each curve what the step needs at least:
weights and contexts read once at the measured bandwidth, or its products at the measured rate, whichever is
longer. "sampler" is the sampler's program alone, without the products before it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.ceilings import matmul_rate, read_bandwidth
from benchmarks.growth.curves import Curve, write
from benchmarks.growth.startup import config
from benchmarks.model_step import GREEDY, Model, Step, make_runner, step_seconds, steps_taken
from benchmarks.roofline import RUNS
from vllm_jax.kernels.cpu.library import describe as load_kernels
from vllm_jax.runner.program_store import ProgramStore
from vllm_jax.sampling import sampler
from vllm_jax.sampling.inputs import RandomInputs
from vllm_jax.sampling_params import SamplingParams

BATCH, CONTEXT, VOCABULARY = "batch", "context", "vocabulary"
SAMPLED = SamplingParams(temperature=0.8, top_p=0.9)
RAW = {**config(768, 2048, 4, layers=12), "max_position_embeddings": 16384}


class Machine:
    """What it can do at most, measured."""

    def __init__(self, bandwidth: float, rate: float):
        self.bandwidth = bandwidth
        self.rate = rate

    def least_ms(self, model: Model, step: Step) -> float:
        """Of a step in the middle of a measurement, during which the contexts grow."""
        step = replace(step, context=step.context + steps_taken() // 2)
        return 1e3 * max(model.bytes(step) / self.bandwidth, model.flops(step) / self.rate)


def sampler_ms(rows: int, vocabulary: int, params: SamplingParams) -> float:
    """Median time of the sampler alone, on logits as wide as a model's."""
    logits = jax.random.normal(jax.random.key(0), (rows, vocabulary), jnp.float32) * 3
    inputs = RandomInputs(
        temperature=jnp.full(rows, params.temperature, jnp.float32),
        top_p=jnp.full(rows, params.top_p, jnp.float32),
        min_p=jnp.zeros(rows, jnp.float32),
        top_k=jnp.zeros(rows, jnp.int32),
        seed=jnp.arange(2 * rows, dtype=jnp.uint32).reshape(rows, 2),
        position=jnp.arange(rows, dtype=jnp.int32),
    )
    run = jax.jit(sampler.greedy if params.temperature == 0 else lambda x: sampler.random(x, inputs))
    run(logits).block_until_ready()
    times = []
    for _ in range(RUNS * 4):
        began = time.perf_counter()
        run(logits).block_until_ready()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def over_steps(
    panel: str, model: Model, steps: list[tuple[int, Step]], machine: Machine, store: ProgramStore
) -> Iterator[Curve]:
    """One model; each step with the size it is drawn over."""
    runner, _ = make_runner(model, [step for _, step in steps], None, store)
    sizes = [float(x) for x, _ in steps]
    measured = []
    for x, step in steps:
        measured.append(1e3 * step_seconds(runner, step))
        print(f"{panel} {x}: {measured[-1]:.2f} ms", flush=True)
    yield Curve(panel, "step", sizes, measured)
    yield Curve(panel, "ideal", sizes, [machine.least_ms(model, step) for _, step in steps], ideal=True)


def over_vocabulary(
    raw: dict[str, Any], vocabularies: list[int], step: Step, machine: Machine, store: ProgramStore
) -> Iterator[Curve]:
    """A model for each vocabulary; greedy steps and sampled ones, and the samplers alone."""
    points: dict[str, list[float]] = {}
    for vocabulary in vocabularies:
        model = Model.of(f"growth-{vocabulary}", {**raw, "vocab_size": vocabulary})
        runner, _ = make_runner(model, [step], None, store)
        found = {
            "step, greedy": 1e3 * step_seconds(runner, step, GREEDY),
            "step, temperature and top-p": 1e3 * step_seconds(runner, step, SAMPLED),
            "sampler, greedy": sampler_ms(step.rows, vocabulary, GREEDY),
            "sampler, temperature and top-p": sampler_ms(step.rows, vocabulary, SAMPLED),
            "ideal": machine.least_ms(model, step),
        }
        print(f"vocabulary {vocabulary}: " + ", ".join(f"{k} {v:.2f}" for k, v in found.items()), flush=True)
        for name, value in found.items():
            points.setdefault(name, []).append(value)
        del runner
    for name, values in points.items():
        yield Curve(VOCABULARY, name, [float(v) for v in vocabularies], values, ideal=name == "ideal")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    powers = [2**n for n in range(19)]
    parser.add_argument("--batches", type=int, nargs="*", default=powers[:7], help="at 512 tokens of context")
    parser.add_argument("--contexts", type=int, nargs="*", default=powers[7:14], help="at a batch of 8")
    parser.add_argument("--vocabularies", type=int, nargs="*", default=powers[13:], help="8 x 512")
    parser.add_argument("--programs", type=Path, help="keep compiled programs here for the next run")
    parser.add_argument("--out", type=Path, required=True, help="write the curves to this file")


def run(args: argparse.Namespace) -> None:
    load_kernels()  # executables from disk call into them
    machine = Machine(read_bandwidth(2), matmul_rate(jnp.dtype(jnp.bfloat16)))
    curves: list[Curve] = []
    with tempfile.TemporaryDirectory(prefix="growth-") as temporary:
        store = ProgramStore(args.programs or Path(temporary), jax.devices()[0])
        model = Model.of("growth", RAW)
        if args.batches:
            batches = [(rows, Step(rows, 1, 512)) for rows in args.batches]
            curves += over_steps(BATCH, model, batches, machine, store)
        if args.contexts:
            contexts = [(context, Step(8, 1, context)) for context in args.contexts]
            curves += over_steps(CONTEXT, model, contexts, machine, store)
        if args.vocabularies:
            curves += over_vocabulary(RAW, args.vocabularies, Step(8, 1, 512), machine, store)
    figures = {"read_gbs": machine.bandwidth / 1e9, "bf16_gflops": machine.rate / 1e9}
    write(args.out, curves, **{name: float(np.round(value, 1)) for name, value in figures.items()})
