"""The simulation in benchmarks/: its clock against arithmetic done by hand, and the shape of its answers."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from fake_device import make_sequence

from vllm_jax.runner.buckets import ShapeRegistry
from vllm_jax.scheduled_batch import ScheduledBatch, ScheduledSequence


def load_module() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "simulate.py"
    spec = importlib.util.spec_from_file_location("simulate", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulate"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


simulate = load_module()
MODEL = simulate.Model()


def machine(chip: str = "v6e", chips: int = 8, **changes: float) -> object:
    return replace(simulate.Machine(simulate.CHIPS[chip], chips, MODEL, 1.0, 0.0), **changes)


def row(start: int, tokens: int) -> ScheduledSequence:
    return ScheduledSequence(make_sequence([1]), start, tokens, True, 0, [], False)


def test_the_model_is_that_of_llama_3_8b() -> None:
    assert MODEL.layer_parameters + 2 * MODEL.hidden * MODEL.vocab == pytest.approx(8.03e9, rel=0.001)
    assert MODEL.kv_bytes_per_token == 128 * 1024


def test_a_decode_step_reads_weights_and_pages() -> None:
    registry = ShapeRegistry(64, 512)
    seconds = machine(chips=1).step_seconds(ScheduledBatch([row(999, 1)] * 8), registry)
    read = MODEL.weight_bytes + 8 * 1000 * 131072 + 8 * 131072  # and what is written
    assert seconds == pytest.approx(read / 1638e9)
    assert machine(chips=1, efficiency=0.5, overhead_s=0.001).step_seconds(
        ScheduledBatch([row(999, 1)] * 8), registry
    ) == pytest.approx(2 * read / 1638e9 + 0.001)


def test_a_prefill_step_computes_its_padded_shape() -> None:
    registry = ShapeRegistry(64, 4096)
    seconds = machine(chips=1).step_seconds(ScheduledBatch([row(0, 3000)]), registry)
    flops = 2 * 4096 * MODEL.layer_parameters + 2 * 64 * MODEL.hidden * MODEL.vocab
    flops += 4 * sum(range(1, 3001)) * 4096 * 32
    assert seconds == pytest.approx(flops / 918e12, rel=1e-6)


def test_few_requests_are_answered_as_they_come_and_many_are_not() -> None:
    limits = simulate.Limits(64, 512)
    load = simulate.Load("x", 32, 32, 16, 400)
    bend = simulate.saturation(machine(), load, limits)
    calm = simulate.simulate(machine(), load, 0.1 * bend, load.count, limits)
    busy = simulate.simulate(machine(), load, 3 * bend, load.count, limits)
    assert calm.requests_per_second == pytest.approx(0.1 * bend, rel=0.2)
    assert 0.3 * bend < busy.requests_per_second < 1.5 * bend
    assert busy.ttft_p50 > 3 * calm.ttft_p50 and busy.mean_batch > 2 * calm.mean_batch
    step = MODEL.weight_bytes / (8 * 1638e9)
    assert calm.itl_p50 == pytest.approx(step, rel=0.3) and calm.ttft_p50 > step
    assert busy.device_busy > 0.95


def test_a_small_cache_preempts() -> None:
    tight = machine(chip="v5e", chips=8, utilization=0.129)
    assert 20 < tight.num_blocks(64) < 200
    load = simulate.Load("x", 0, 256, 256, 60)
    figures = simulate.simulate(tight, load, 1e4, load.count, simulate.Limits(64, 512))
    assert figures.preemptions > 0 and figures.kv_peak > 0.9
