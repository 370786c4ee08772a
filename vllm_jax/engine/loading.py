"""From a config to a ready engine: find the checkpoint, load the weights, size the cache, compile.

Knows the order of a start and where each default comes from. Everything that can fail because of the user
fails here, with a ConfigError whose text is for a person.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vllm_jax.config import DEMO_MODEL, EngineConfig, ModelConfig, SchedulerConfig
from vllm_jax.demo import demo_model_path
from vllm_jax.engine.info import ModelInfo
from vllm_jax.engine.llm_engine import LLMEngine
from vllm_jax.errors import CheckpointError, ConfigError, InvalidRequestError
from vllm_jax.kernels.attention import get_implementation, implementation_for
from vllm_jax.kernels.cpu.library import describe as describe_library
from vllm_jax.metrics import Metrics
from vllm_jax.models.load import LoadedModel, load_family
from vllm_jax.models.registry import resolve
from vllm_jax.progress import ProgressReport, no_progress
from vllm_jax.runner.buckets import ShapeRegistry
from vllm_jax.runner.compile_cache import keep_compiled_programs
from vllm_jax.runner.memory import BlockBudget, num_blocks, return_freed_memory
from vllm_jax.runner.model_runner import KVSpec, ModelRunner
from vllm_jax.runner.program_store import ProgramStore
from vllm_jax.sampling_params import SamplingParams
from vllm_jax.scheduler.scheduler import Scheduler
from vllm_jax.tokenizer.base import Tokenizer
from vllm_jax.tokenizer.loader import load_tokenizer
from vllm_jax.weights.dtype import resolve_dtype
from vllm_jax.weights.files import read_config, read_generation_config, read_json
from vllm_jax.weights.hub import resolve_directory
from vllm_jax.weights.pooling import Pooling, read_pooling

_GENERATION_KEYS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "max_new_tokens": "max_tokens",
    "skip_special_tokens": "skip_special_tokens",
}
"""Keys of generation_config.json that set sampling defaults, and their names in SamplingParams."""


@dataclass(frozen=True)
class _Limits:
    """The scheduler's limits, with every default filled in. All in tokens, but for ``max_num_seqs``."""

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int


def load_engine(
    config: EngineConfig, progress: ProgressReport = no_progress, *, served_name: str | None = None
) -> LLMEngine:
    """Loads, warms up and returns an engine; ``served_name`` is the model's name in the metrics.

    Raises:
        ConfigError: a setting or the checkpoint cannot be honoured; the text says what to do.
    """
    config.validate()
    if config.parallel.tensor_parallel_size > 1:
        raise ConfigError(
            "--tensor-parallel-size above 1 is not supported yet: one device holds the whole model"
        )
    started = time.monotonic()
    device = _device(config.parallel.device)
    keep_executables = config.parallel.keep_executables
    folder = keep_compiled_programs(
        config.parallel.compilation_cache_dir, jax_cache=not (keep_executables and device.platform == "cpu")
    )
    implementation = implementation_for(device.platform, config.parallel.attention_implementation)
    directory = model_directory(config.model)
    hf_config = read_config(directory, config.model.hf_overrides)
    dtype = resolve_dtype(config.model.dtype, hf_config)
    # What the config can refuse is refused before the weights are read.
    family = resolve(hf_config)
    parsed = family.read_config(hf_config)
    limits = _limits(config.model, config.scheduler, parsed.max_position, device)
    pooling = read_pooling(directory, config.model.runner)

    # Loads the library: an executable from disk that calls into it must find it there.
    cpu_kernels = describe_library() if device.platform == "cpu" else None
    with ThreadPoolExecutor(1) as beside:
        # Reading weights and compiling leave Python's lock alone most of the time.
        soon = beside.submit(_tokenizer, config.model, directory)
        with jax.default_device(device):
            loaded = load_family(
                directory,
                family,
                parsed,
                dtype=dtype,
                load_format=config.model.load_format,
                seed=config.model.seed,
                progress=lambda done, total: progress("Loading weights", done, total),
            )
        return_freed_memory()  # the host's copies of the tensors
        store = ProgramStore(folder, device) if keep_executables and folder is not None else None
        runner, kv_spec = _runner(config, loaded, limits, device, implementation, dtype, pooling, store)
        load_seconds = time.monotonic() - started
        blocks = _allocate(config, runner, kv_spec, limits, device)
        if soon.done():
            soon.result()  # An unreadable tokenizer is told before the compiler is asked.
        runner.warm_up(lambda done, total, _: progress("Compiling programs", done, total))
        tokenizer = soon.result()
    defaults, eos_token_ids = _generation_defaults(config.model, directory, hf_config, tokenizer)

    metrics = Metrics(model_name=served_name or config.model.model)
    metrics.set_cache_config(
        block_size=kv_spec.page_size,
        num_gpu_blocks=blocks,
        enable_prefix_caching=config.cache.enable_prefix_caching,
        cache_dtype=kv_spec.dtype,
        kv_cache_size_tokens=blocks * kv_spec.page_size,
        kv_cache_max_concurrency=round(blocks * kv_spec.page_size / limits.max_model_len, 2),
    )
    scheduler = Scheduler(
        num_blocks=blocks,
        block_size=kv_spec.page_size,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        max_model_len=limits.max_model_len,
        policy=config.scheduler.scheduling_policy,
        enable_prefix_caching=config.cache.enable_prefix_caching,
        enable_chunked_prefill=config.scheduler.enable_chunked_prefill,
        long_prefill_token_threshold=config.scheduler.long_prefill_token_threshold or 0,
        free_tokens=_free_tokens(config.scheduler, device),
    )
    info = ModelInfo(
        model=config.model.model,
        model_type=loaded.family.model_type,
        max_model_len=limits.max_model_len,
        vocab_size=loaded.config.vocab_size,
        dtype=str(dtype),
        num_parameters=loaded.info.num_parameters,
        weight_bytes=loaded.info.num_bytes,
        device=str(device.device_kind),
        platform=device.platform,
        attention=implementation,
        block_size=kv_spec.page_size,
        num_blocks=blocks,
        kv_cache_bytes=blocks * kv_spec.bytes_per_page,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        max_logprobs=config.model.max_logprobs,
        scheduling_policy=config.scheduler.scheduling_policy,
        enable_prefix_caching=config.cache.enable_prefix_caching,
        num_programs=len(runner.programs),
        num_compiled=runner.programs.num_compiled,
        warm_up_seconds=runner.programs.seconds,
        load_seconds=load_seconds,
        pooling=pooling,
        hidden_size=loaded.config.hidden_size,
        cpu_kernels=cpu_kernels,
        eos_token_ids=eos_token_ids,
        default_sampling=defaults,
    )
    return LLMEngine(
        info=info,
        runner=runner,
        scheduler=scheduler,
        tokenizer=tokenizer,
        metrics=metrics,
        seed=config.model.seed,
        forbid_recompile=config.parallel.forbid_recompile,
    )


def model_directory(model: ModelConfig) -> Path:
    """The local directory of the model's files, downloaded if need be. Raises ConfigError."""
    if model.model == DEMO_MODEL:
        return demo_model_path()
    return resolve_directory(
        model.model, revision=model.revision, cache_dir=model.download_dir, token=model.hf_token
    )


def _device(wanted: str) -> jax.Device:
    try:
        return jax.devices()[0] if wanted == "auto" else jax.devices(wanted)[0]
    except RuntimeError as error:
        raise ConfigError(f"--device {wanted}: {str(error).splitlines()[0]}") from error


def _tokenizer(model: ModelConfig, directory: Path) -> Tokenizer | None:
    if model.skip_tokenizer_init:
        return None
    if model.tokenizer is not None:
        directory = resolve_directory(
            model.tokenizer,
            revision=model.tokenizer_revision or model.revision,
            cache_dir=model.download_dir,
            token=model.hf_token,
        )
    return load_tokenizer(directory)


def _generation_defaults(
    model: ModelConfig, directory: Path, hf_config: Mapping[str, Any], tokenizer: Tokenizer | None
) -> tuple[dict[str, Any], frozenset[int]]:
    """Sampling defaults, and all token ids that mean the end of a text."""
    eos = _ids(hf_config.get("eos_token_id"))
    if tokenizer is not None and tokenizer.eos_token_id is not None:
        eos |= {tokenizer.eos_token_id}
    generation: dict[str, Any] = {}
    if model.generation_config == "auto":
        generation = read_generation_config(directory)
    elif model.generation_config != "vllm":
        folder = Path(model.generation_config)
        generation = read_json(folder / "generation_config.json" if folder.is_dir() else folder)
    eos |= _ids(generation.get("eos_token_id"))
    unknown = set(model.override_generation_config) - set(_GENERATION_KEYS)
    if unknown:
        raise ConfigError(
            f"--override-generation-config: {', '.join(sorted(unknown))} cannot be honoured; "
            f"it may set {', '.join(_GENERATION_KEYS)}"
        )
    chosen = {**generation, **model.override_generation_config}
    defaults = {ours: chosen[key] for key, ours in _GENERATION_KEYS.items() if chosen.get(key) is not None}
    try:
        SamplingParams(**defaults)
    except InvalidRequestError as error:
        raise CheckpointError(f"the generation config cannot be honoured: {error}") from error
    return defaults, frozenset(eos)


def _ids(value: Any) -> set[int]:
    return set(value) if isinstance(value, list) else {value} if isinstance(value, int) else set()


def _limits(
    model: ModelConfig, scheduler: SchedulerConfig, longest: int | None, device: jax.Device
) -> _Limits:
    if model.max_model_len is not None and longest is not None and model.max_model_len > longest:
        raise ConfigError(
            f"--max-model-len {model.max_model_len} is more than the {longest} tokens the model is made for. "
            "If you know that its positions reach further, say so with --hf-overrides "
            "(for MPT: '{\"max_seq_len\": 4096}')."
        )
    max_model_len = model.max_model_len or longest
    if max_model_len is None:
        raise ConfigError("the model's config names no longest sequence: set --max-model-len")
    on_cpu = device.platform == "cpu"
    seqs = scheduler.max_num_seqs or (64 if on_cpu else 256)
    tokens = scheduler.max_num_batched_tokens
    if tokens is None:
        tokens = max(512 if on_cpu else 2048, seqs)
        if not scheduler.enable_chunked_prefill:
            tokens = max(tokens, max_model_len)
    if tokens < seqs:
        raise ConfigError(
            f"--max-num-batched-tokens {tokens} must be at least --max-num-seqs {seqs}: a step computes a "
            "token for each running sequence"
        )
    return _Limits(max_model_len, seqs, tokens)


def _free_tokens(scheduler: SchedulerConfig, device: jax.Device) -> int:
    """Tokens a step computes in the time of reading the weights, where long prompts are to make room.

    That is arithmetic over bandwidth. A CPU core has some 10 to 20 multiplications to spare for each weight
    it reads, an accelerator some hundred (TPU v5e 240, H100 295, at 2 bytes a weight).
    """
    if scheduler.long_prefill_token_threshold is not None:
        return 0
    return 16 if device.platform == "cpu" else 256


def _runner(
    config: EngineConfig,
    loaded: LoadedModel,
    limits: _Limits,
    device: jax.Device,
    implementation: str,
    dtype: jnp.dtype,
    pooling: Pooling | None,
    store: ProgramStore | None,
) -> tuple[ModelRunner, KVSpec]:
    cache = config.cache
    kv_spec = KVSpec(
        num_layers=loaded.config.num_layers,
        page_size=cache.block_size or get_implementation(implementation).page_size,
        num_kv_heads=loaded.config.num_kv_heads,
        head_dim=loaded.config.head_dim,
        dtype=_kv_dtype(cache.kv_cache_dtype, dtype),
        implementation=implementation,
    )
    get_implementation(implementation).check(
        loaded.config.num_heads, kv_spec.num_kv_heads, kv_spec.head_dim, kv_spec.page_size, kv_spec.dtype
    )
    runner = ModelRunner(
        loaded.model,
        vocab_size=loaded.config.vocab_size,
        kv_spec=kv_spec,
        registry=ShapeRegistry(limits.max_num_seqs, limits.max_num_batched_tokens),
        max_model_len=limits.max_model_len,
        max_logprobs=config.model.max_logprobs,
        device=device,
        pooling=pooling,
        hidden=(loaded.config.hidden_size, dtype),
        identity=f"{loaded.family.model_type} {loaded.config} {dtype}",
        store=store,
        forbid_recompile=config.parallel.forbid_recompile,
    )
    return runner, kv_spec


def _kv_dtype(wanted: str, model_dtype: jnp.dtype) -> jnp.dtype:
    if wanted == "auto":
        return model_dtype
    return jnp.dtype(jnp.float8_e4m3fn if wanted == "fp8" else wanted)


def _allocate(
    config: EngineConfig, runner: ModelRunner, kv_spec: KVSpec, limits: _Limits, device: jax.Device
) -> int:
    budget = BlockBudget(
        bytes_per_block=kv_spec.bytes_per_page,
        block_size=kv_spec.page_size,
        max_model_len=limits.max_model_len,
        max_num_seqs=limits.max_num_seqs,
    )
    step_bytes = 0 if device.platform == "cpu" else runner.largest_step_bytes()
    blocks = num_blocks(config.cache, budget, device, step_bytes)
    runner.allocate(blocks)
    return blocks
