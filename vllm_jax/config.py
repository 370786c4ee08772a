"""Every setting of the engine, in groups; the command line and ``LLM(...)`` are both generated from here.

Knows names, defaults, units and help texts (the docstring under a field is its ``--help``). Does not know
what the machine or the checkpoint allows: the runner and the loader resolve the ``None`` defaults and
raise :class:`~vllm_jax.errors.ConfigError` where a wish cannot be honoured.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from typing import Any, Literal

from vllm_jax.errors import ConfigError

logger = logging.getLogger(__name__)

DEMO_MODEL = "demo"
"""The model name that stands for the bundled demo checkpoint."""
REMOTE_CODE_NOTE = (
    "--trust-remote-code has no effect: code from a model repository is never run, and none is needed"
)
"""What is said once where the flag (or ``trust_remote_code=True``) is given."""
FLOAT16_NOTE = "--dtype float16 is computed in bfloat16: the same size, and no overflow in activations"
"""What is said once where the flag (or ``dtype="float16"``) is given."""


@dataclass(frozen=True)
class ModelConfig:
    """Which model, and how it is loaded."""

    model: str = DEMO_MODEL
    """A local directory or a hub id. The default is the bundled English-to-Italian demo model."""
    revision: str | None = None
    """Branch, tag or commit of the hub repository."""
    tokenizer: str | None = None
    """A directory or hub id for the tokenizer, where it is not the model's own."""
    tokenizer_revision: str | None = None
    """Branch, tag or commit of the tokenizer's repository. The default is --revision."""
    skip_tokenizer_init: bool = False
    """Load no tokenizer: requests carry token ids and get token ids back."""
    trust_remote_code: bool = False
    """Accepted without effect: code from a model repository is never run, and supported models need none."""
    dtype: Literal["auto", "bfloat16", "float32", "float16"] = "auto"
    """Type of the weights and activations. "auto" takes the checkpoint's own. float16 is computed in
    bfloat16, whether a checkpoint names it or this flag."""
    runner: Literal["auto", "generate", "pooling"] = "auto"
    """What the model is for. Any model generates; with "pooling", or where "auto" finds the pooling of an
    embedding model in its directory, it serves embeddings too."""
    load_format: Literal["auto", "safetensors", "dummy"] = "auto"
    """"dummy" fills the weights with random numbers (seeded by --seed); the tokenizer is still read."""
    download_dir: str | None = None
    """Where hub files are cached. The default is the Hugging Face cache."""
    hf_token: str | None = None
    """Access token for gated hub repositories. Prefer the HF_TOKEN variable: flags show up in ps."""
    hf_overrides: dict[str, Any] = field(default_factory=dict)
    """JSON object laid over the model's config.json."""
    max_model_len: int | None = None
    """Longest sequence, prompt and output together, in tokens. The default comes from the model's config."""
    generation_config: str = "auto"
    """Where sampling defaults come from: "auto" (generation_config.json), "vllm" (none), or a directory."""
    override_generation_config: dict[str, Any] = field(default_factory=dict)
    """JSON object laid over the generation config, for example '{"temperature": 0.5}'."""
    max_logprobs: int = 20
    """Most logprobs a request may ask for at each position; -1 allows the whole vocabulary."""
    seed: int = 0
    """Seeds dummy weights and the sampling of requests that carry no seed of their own."""


@dataclass(frozen=True)
class CacheConfig:
    """The paged KV cache."""

    block_size: int | None = None
    """Tokens a KV block (page) holds. The default is the kernel's choice for the device."""
    num_gpu_blocks_override: int | None = None
    """Exactly this many KV blocks, whatever memory there is."""
    kv_cache_memory_bytes: int | None = None
    """Memory for the KV cache in bytes, instead of what is left on the device."""
    gpu_memory_utilization: float = 0.92
    """Fraction of the device's memory that weights, activations and KV cache may use together."""
    kv_cache_dtype: Literal["auto", "bfloat16", "float32", "fp8"] = "auto"
    """Type of the stored keys and values. "auto" is the model's; "fp8" (e4m3, scale 1) takes half of what
    bfloat16 takes."""
    enable_prefix_caching: bool = True
    """Reuse the KV blocks of equal prompt prefixes."""


@dataclass(frozen=True)
class SchedulerConfig:
    """The continuous batcher."""

    max_num_seqs: int | None = None
    """Most sequences that run at once. The default is 64 on CPU and 256 on accelerators."""
    max_num_batched_tokens: int | None = None
    """Most tokens a step computes, prefill and decode together. The default is 512 on CPU, else 2048."""
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    """First come first served, or by the request's priority (a lower number goes first)."""
    enable_chunked_prefill: bool = True
    """Split long prompts over steps. Without it a prompt must fit into one step."""
    long_prefill_token_threshold: int | None = None
    """Most tokens of one prompt a step computes; 0 means no limit of its own. By default prompts that need
    several steps make room for running requests: a step takes at most about twice as long, unless several
    of them wait."""
    max_num_queued_reqs: int | None = None
    """Most requests that may wait for their first step; more are answered with 503 and Retry-After. No limit
    by default."""
    max_num_queued_tokens: int | None = None
    """Most prompt tokens that may wait; more are answered with 503 and Retry-After. An empty queue takes any
    request. No limit by default."""


@dataclass(frozen=True)
class ParallelConfig:
    """Devices."""

    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """The platform to run on. "auto" is JAX's own choice."""
    tensor_parallel_size: int = 1
    """Devices the weights and heads are split over."""
    attention_implementation: str = "auto"
    """Forces a paged-attention implementation by its name; "auto" takes the device's own."""
    forbid_recompile: bool = False
    """Fail where a device program is compiled after the server is ready, naming it. For tests and staging: by
    default it is logged and counted in vllm:compilations_total, and requests wait for it."""
    keep_executables: bool = True
    """Keep whole executables for the next start, which then neither traces nor compiles. Without it jax's own
    cache keeps what XLA compiles, and a start traces every program to find it there."""
    compilation_cache_dir: str | None = None
    """Where compiled programs are kept for the next start. The default is ~/.cache/vllm-jax/xla; "" keeps
    none."""


@dataclass(frozen=True)
class EngineConfig:
    """Everything the engine needs to start."""

    model: ModelConfig = field(default_factory=ModelConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    @classmethod
    def from_flat(cls, **settings: Any) -> EngineConfig:
        """Builds a config from flat names, as ``LLM(model, max_num_seqs=8, ...)`` gives them.

        Raises:
            TypeError: a name is no setting of any group; the text names it.
        """
        groups: dict[str, Any] = {group.name: group.default_factory for group in dataclasses.fields(cls)}
        owner = {f.name: name for name, group in groups.items() for f in dataclasses.fields(group)}
        chosen: dict[str, dict[str, Any]] = {name: {} for name in groups}
        for key, value in settings.items():
            if key not in owner:
                raise TypeError(f"unknown engine setting {key!r}")
            chosen[owner[key]][key] = value
        return cls(**{name: groups[name](**values) for name, values in chosen.items()})

    def validate(self) -> None:
        """Checks what can be checked without a device or a checkpoint; logs what has no effect.

        Raises:
            ConfigError: a value is out of its range; the text names the flag.
        """
        model, cache, scheduler = self.model, self.cache, self.scheduler
        if model.trust_remote_code:
            logger.warning(REMOTE_CODE_NOTE)
        if model.dtype == "float16":
            logger.warning(FLOAT16_NOTE)
        if cache.kv_cache_dtype not in ("auto", "bfloat16", "float32", "fp8"):
            raise ConfigError(
                f"--kv-cache-dtype {cache.kv_cache_dtype} is not supported; use auto, bfloat16, float32 or "
                "fp8 (int8 needs scales, which checkpoints do not bring)"
            )
        positive = {
            "--max-model-len": model.max_model_len,
            "--block-size": cache.block_size,
            "--num-gpu-blocks-override": cache.num_gpu_blocks_override,
            "--kv-cache-memory-bytes": cache.kv_cache_memory_bytes,
            "--max-num-seqs": scheduler.max_num_seqs,
            "--max-num-batched-tokens": scheduler.max_num_batched_tokens,
            "--max-num-queued-reqs": scheduler.max_num_queued_reqs,
            "--max-num-queued-tokens": scheduler.max_num_queued_tokens,
            "--tensor-parallel-size": self.parallel.tensor_parallel_size,
        }
        for flag, value in positive.items():
            if value is not None and value < 1:
                raise ConfigError(f"{flag} must be at least 1, got {value}")
        if (scheduler.long_prefill_token_threshold or 0) < 0:
            raise ConfigError("--long-prefill-token-threshold must not be negative")
        if not 0 < cache.gpu_memory_utilization <= 1:
            share = cache.gpu_memory_utilization
            raise ConfigError(f"--gpu-memory-utilization must be in (0, 1], got {share}")
        if model.max_logprobs < -1:
            raise ConfigError(f"--max-logprobs must be -1 or more, got {model.max_logprobs}")
