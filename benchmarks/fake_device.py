"""An engine whose device is not there: real scheduler, input building, output processing; made-up tokens."""

from __future__ import annotations

import numpy as np

from vllm_jax.demo import demo_model_path
from vllm_jax.engine.info import ModelInfo
from vllm_jax.engine.llm_engine import LLMEngine
from vllm_jax.metrics import Metrics
from vllm_jax.runner.buckets import ShapeRegistry
from vllm_jax.runner.model_runner import DispatchedStep
from vllm_jax.runner.slots import SlotTable
from vllm_jax.runner.step_inputs import StepInputBuilder
from vllm_jax.scheduled_batch import ScheduledBatch
from vllm_jax.scheduler.scheduler import Scheduler
from vllm_jax.tokenizer.loader import load_tokenizer

PAGE = 16


class FakeRunner:
    """Builds a step's inputs as the real runner does, and has its tokens at once."""

    def __init__(self, num_slots: int, max_model_len: int, max_num_batched_tokens: int, vocab_size: int):
        registry = ShapeRegistry(num_slots, max_num_batched_tokens)
        slots = SlotTable(num_slots, -(-max_model_len // PAGE), vocab_size)
        self._builder = StepInputBuilder(registry, slots, max_model_len)
        self._tokens = np.random.default_rng(1).integers(5, vocab_size, (64, num_slots)).astype(np.int32)
        self._steps = 0

    def execute(self, batch: ScheduledBatch) -> DispatchedStep:
        self._builder.build(batch)
        self._steps += 1
        return DispatchedStep(batch, self._tokens[self._steps % 64])  # type: ignore[arg-type]


def make_engine(
    num_seqs: int, max_model_len: int, *, max_num_batched_tokens: int = 2048, runner: FakeRunner | None = None
) -> LLMEngine:
    """An engine for ``num_seqs`` sequences of ``max_model_len`` tokens, with the demo's tokenizer."""
    tokenizer = load_tokenizer(demo_model_path())
    vocab = tokenizer.vocab_size
    max_num_batched_tokens = max(max_num_batched_tokens, num_seqs)
    blocks = num_seqs * -(-max_model_len // PAGE) + 64
    info = ModelInfo(
        model="fake",
        model_type="fake",
        max_model_len=max_model_len,
        vocab_size=vocab,
        dtype="float32",
        num_parameters=0,
        weight_bytes=0,
        device="none",
        platform="none",
        attention="none",
        block_size=PAGE,
        num_blocks=blocks,
        kv_cache_bytes=0,
        max_num_seqs=num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_logprobs=20,
        scheduling_policy="fcfs",
        enable_prefix_caching=True,
        num_programs=0,
        num_compiled=0,
        warm_up_seconds=0.0,
        load_seconds=0.0,
    )
    return LLMEngine(
        info=info,
        runner=runner or FakeRunner(num_seqs, max_model_len, max_num_batched_tokens, vocab),  # type: ignore[arg-type]
        scheduler=Scheduler(
            num_blocks=blocks,
            block_size=PAGE,
            max_num_seqs=num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_model_len=max_model_len,
        ),
        tokenizer=tokenizer,
        metrics=Metrics("fake"),
        seed=0,
    )
