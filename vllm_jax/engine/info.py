"""What is being served, in plain values: for the start-up summary, /v1/models, and validation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vllm_jax.weights.pooling import Pooling


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a started engine; none of them changes afterwards.

    ``default_sampling`` holds the sampling defaults of the model's generation config, under the names of
    :class:`~vllm_jax.sampling_params.SamplingParams` (``max_new_tokens`` becomes ``max_tokens``).
    ``pooling``: how prompts are embedded, in ``hidden_size`` numbers, or None.
    ``cpu_kernels`` says, on a CPU, which native kernels run, or why none do.
    """

    model: str
    model_type: str
    max_model_len: int
    vocab_size: int
    dtype: str
    num_parameters: int
    weight_bytes: int
    device: str
    platform: str
    attention: str
    block_size: int
    num_blocks: int
    kv_cache_bytes: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_logprobs: int
    scheduling_policy: str
    enable_prefix_caching: bool
    num_programs: int
    num_compiled: int
    warm_up_seconds: float
    load_seconds: float
    cpu_kernels: str | None = None
    pooling: Pooling | None = None
    hidden_size: int = 0
    eos_token_ids: frozenset[int] = frozenset()
    default_sampling: dict[str, Any] = field(default_factory=dict)

    @property
    def kv_cache_tokens(self) -> int:
        """Tokens the KV cache holds."""
        return self.num_blocks * self.block_size

    @property
    def max_concurrency(self) -> float:
        """Sequences of ``max_model_len`` tokens the KV cache holds at once."""
        return self.kv_cache_tokens / self.max_model_len
