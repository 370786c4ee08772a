"""The written list of vLLM's flags that this server has no setting for.

Most are accepted, so that a command line made for vLLM starts this server, and each says on stderr that it
has no effect. A flag whose absence would change the answers, or where the server listens, is refused.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Foreign:
    """A flag of vLLM's: how many values it takes (-1: any number) and why nothing comes of it.

    ``refused`` ends the start. Values in ``harmless`` ask for nothing special: they pass without a word.
    """

    values: int
    why: str
    refused: bool = False
    harmless: frozenset[str] = frozenset()


def _switch(why: str) -> Foreign:
    return Foreign(0, why)


def _value(why: str, *harmless: str) -> Foreign:
    return Foreign(1, why, harmless=frozenset(harmless))


def _refused(why: str, *harmless: str, values: int = 1) -> Foreign:
    return Foreign(values, why, refused=True, harmless=frozenset(harmless))


_COMPILED = "every step is compiled by XLA"
_ONE_REPLICA = "this version serves one replica"
_ONE_HOST = "this version serves one host"
_SPECULATIVE = "speculative decoding is not supported by this version; answers are the same"
_MULTIMODAL = "text only"
_LORA = "LoRA adapters are not supported by this version"
_SLEEP = "there is no sleep mode"
_STRUCTURED = "structured output always runs on llguidance, and needs no settings"

FOREIGN_FLAGS: dict[str, Foreign] = {
    # Compilation and kernels
    "--enforce-eager": _switch(_COMPILED),
    "--compilation-config": _value(_COMPILED),
    "--optimization-level": _value(_COMPILED),
    "--attention-backend": _value("the kernel is chosen for the device"),
    "--async-scheduling": _switch("scheduling always overlaps with the device's work"),
    "--prefix-caching-hash-algo": _value("block hashes are always keyed and cryptographic", "sha256"),
    "--cpu-offload-gb": _value("weights stay on the device", "0"),
    "--swap-space": _value("preemption recomputes, it does not swap", "0"),
    # Processes
    "--disable-frontend-multiprocessing": _switch("the server is one process"),
    "--api-server-count": _value("the server is one process", "1"),
    "--distributed-executor-backend": _value("one process drives all devices"),
    "--pipeline-parallel-size": _refused("pipeline parallelism is not supported by this version", "1"),
    "--data-parallel-size": _refused(_ONE_REPLICA, "1"),
    "--data-parallel-backend": _value(_ONE_REPLICA),
    "--data-parallel-address": _value(_ONE_REPLICA),
    "--data-parallel-rpc-port": _value(_ONE_REPLICA),
    "--data-parallel-rank": _value(_ONE_REPLICA, "0"),
    "--data-parallel-size-local": _value(_ONE_REPLICA, "1"),
    "--data-parallel-start-rank": _value(_ONE_REPLICA, "0"),
    "--data-parallel-hybrid-lb": _switch(_ONE_REPLICA),
    "--data-parallel-external-lb": _switch(_ONE_REPLICA),
    "--decode-context-parallel-size": _refused("context parallelism is not supported by this version", "1"),
    "--enable-expert-parallel": _switch("there are no models with experts in this version"),
    "--nnodes": _refused(_ONE_HOST, "1"),
    "--node-rank": _value(_ONE_HOST, "0"),
    "--master-addr": _value(_ONE_HOST),
    "--master-port": _value(_ONE_HOST),
    "--headless": _refused(_ONE_HOST, values=0),
    "--enable-scale-out": _switch(_ONE_HOST),
    "--grpc": _refused("there is no gRPC endpoint", values=0),
    # Logs and traces
    "--disable-log-stats": _switch("no statistics are logged; they are at /metrics"),
    "--disable-log-requests": _switch("requests are only logged with --enable-log-requests"),
    "--enable-log-outputs": _switch("answers are never logged"),
    "--log-error-stack": _switch("tracebacks of unexpected errors are always logged"),
    "--show-hidden-metrics-for-version": _value("no metric is hidden"),
    "--collect-detailed-traces": _value("a span tells of a request as a whole"),
    "--profiler-config": _value("profiling endpoints are not supported by this version"),
    "--enable-server-load-tracking": _switch("/load always counts"),
    # Loading
    "--tokenizer-mode": _value("there is one way to load a tokenizer", "auto", "hf"),
    "--config-format": _value("configs are read in Hugging Face format", "auto", "hf"),
    "--hf-config-path": _refused("the config is read from the model's directory"),
    "--model-loader-extra-config": _value("the loader has no such settings", "{}"),
    "--quantization": _refused("quantization is not supported by this version", "none", "None"),
    "--task": _refused("it is --runner that says what a model is for", "auto", "generate"),
    "--logits-processors": _refused("code from outside is never run", values=-1),
    "--middleware": _refused("code from outside is never run", values=-1),
    # Features that are not there, or need no setting
    "--enable-lora": _switch(_LORA),
    "--lora-modules": _refused(_LORA, values=-1),
    "--max-loras": _value(_LORA),
    "--max-lora-rank": _value(_LORA),
    "--max-cpu-loras": _value(_LORA),
    "--lora-dtype": _value(_LORA),
    "--fully-sharded-loras": _switch(_LORA),
    "--speculative-config": _value(_SPECULATIVE),
    "--spec-method": _value(_SPECULATIVE),
    "--spec-model": _value(_SPECULATIVE),
    "--spec-tokens": _value(_SPECULATIVE),
    "--structured-outputs-config": _value(_STRUCTURED),
    "--tool-parser-plugin": _refused("code from outside is never run"),
    "--tool-strict-level": _value(
        "calls that a request requires always satisfy their schemas, others need not"
    ),
    "--reasoning-parser-plugin": _refused("code from outside is never run"),
    "--reasoning-effort-map": _refused("reasoning_effort reaches the chat template as it is sent", "{}"),
    "--stream-interval": _value("every step is sent", "1"),
    "--logprobs-mode": _refused("logprobs are those of the model's own distribution", "raw_logprobs"),
    "--enable-sleep-mode": _switch(_SLEEP),
    "--enable-prompt-embeds": _switch("prompt embeddings are refused"),
    "--tokens-only": _switch("text is served too; --skip-tokenizer-init takes and gives token ids only"),
    "--kv-transfer-config": _value("KV is never moved between servers"),
    "--kv-events-config": _value("no KV events are published"),
    "--limit-mm-per-prompt": _value(_MULTIMODAL),
    "--mm-processor-kwargs": _value(_MULTIMODAL),
    "--fingerprint-mode": _value("system_fingerprint is the server's version", "full"),
    "--enable-ssl-refresh": _switch("certificates are read once"),
    "--enable-offline-docs": _switch("/docs never loads anything from the network"),
}
"""vLLM's flags without a setting of their own here."""

ALIASES: dict[str, str] = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
    "-q": "--quantization",
    "-O": "--compilation-config",
    "--device-memory-utilization": "--gpu-memory-utilization",
    "--hbm-utilization": "--gpu-memory-utilization",
    "--disable-access-log": "--disable-uvicorn-access-log",
}
"""Other spellings."""

VALUE_ALIASES: dict[tuple[str, str], str] = {
    ("--max-model-len", "-1"): "auto",
    ("--dtype", "float"): "float32",
    ("--dtype", "half"): "float16",
    ("--kv-cache-dtype", "fp8_e4m3"): "fp8",
    ("--tool-call-parser", "qwen"): "hermes",
    ("--tool-call-parser", "llama4_json"): "llama3_json",
    ("--tool-call-parser", "llama4_pythonic"): "pythonic",
    ("--tool-call-parser", "deepseek_v3"): "deepseek",
    ("--tool-call-parser", "deepseek_v31"): "deepseek",
    ("--tool-call-parser", "gpt_oss"): "openai",
    ("--reasoning-parser", ""): "none",
    ("--reasoning-parser", "deepseek_v3"): "deepseek_r1",
    ("--reasoning-parser", "openai_gptoss"): "gpt_oss",
}
"""Other spellings of values."""
