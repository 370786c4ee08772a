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
    Any number of values ends before the first that ``pattern`` does not match: that one may be the model.
    """

    values: int
    why: str
    refused: bool = False
    harmless: frozenset[str] = frozenset()
    pattern: str = ".*"


def _switch(why: str) -> Foreign:
    return Foreign(0, why)


def _value(why: str, *harmless: str) -> Foreign:
    return Foreign(1, why, harmless=frozenset(harmless))


def _list(why: str, pattern: str) -> Foreign:
    return Foreign(-1, why, pattern=pattern)


def _refused(why: str, *harmless: str, values: int = 1) -> Foreign:
    return Foreign(values, why, refused=True, harmless=frozenset(harmless))


_COMPILED = "every step is compiled by XLA"
_KERNEL = "the kernel is chosen for the device"
_ONE_REPLICA = "this version serves one replica"
_ONE_HOST = "this version serves one host"
_CONTEXT_PARALLEL = "context parallelism is not supported by this version"
_SPECULATIVE = "speculative decoding is not supported by this version; answers are the same"
_MULTIMODAL = "text only"
_LORA = "LoRA adapters are not supported by this version"
_SLEEP = "there is no sleep mode"
_PLUGIN = "the engine and the parsers run no code from outside"
_EXPERTS = "there are no models with experts in this version"
_RECURRENT = "there are no models with a recurrent state in this version"
_SWAP = "preemption recomputes, it does not swap"
_ONE_PROCESS = "the server is one process"
_CACHE_ON_DEVICE = "the KV cache stays on the device"
_PARTIAL = "any number of prompts may be under way; --long-prefill-token-threshold limits each"
_SAFETENSORS = "weights are read as safetensors, several files at a time"
_STRUCTURED = "structured output always runs on llguidance, and needs no settings"

FOREIGN_FLAGS: dict[str, Foreign] = {
    # Compilation and kernels
    "--enforce-eager": _switch(_COMPILED),
    "--compilation-config": _value(_COMPILED),
    "--optimization-level": _value(_COMPILED),
    "--max-seq-len-to-capture": _value(_COMPILED),
    "--cudagraph-capture-sizes": _list(_COMPILED, r"\d+"),
    "--cuda-graph-sizes": _list(_COMPILED, r"\d+"),
    "--max-cudagraph-capture-size": _value(_COMPILED),
    "--cudagraph-metrics": _switch(_COMPILED),
    "--performance-mode": _value(_COMPILED, "balanced"),
    "--attention-backend": _value(_KERNEL),
    "--attention-config": _value(_KERNEL, "{}"),
    "--kernel-config": _value(_KERNEL, "{}"),
    "--linear-backend": _value(_KERNEL, "auto"),
    "--enable-flashinfer-autotune": _switch(_KERNEL),
    "--disable-cascade-attn": _switch(_KERNEL),
    "--override-attention-dtype": _value("attention sums in float32, whatever the model's type"),
    "--disable-sliding-window": _switch("the model's window holds; --max-model-len limits sequences to it"),
    "--kv-sharing-fast-prefill": _switch("every layer of a prompt is computed"),
    "--calculate-kv-scales": _switch("fp8 pages have the scale 1"),
    "--async-scheduling": _switch("scheduling always overlaps with the device's work"),
    "--prefix-caching-hash-algo": _value("block hashes are always keyed and cryptographic", "sha256"),
    "--cpu-offload-gb": _value("weights stay on the device", "0"),
    "--swap-space": _value(_SWAP, "0"),
    "--preemption-mode": _value(_SWAP, "recompute"),
    "--offload-config": _value("weights stay on the device", "{}"),
    "--kv-offloading-size": _value(_CACHE_ON_DEVICE),
    "--kv-offloading-backend": _value(_CACHE_ON_DEVICE),
    "--kv-cache-metrics": _switch("the KV cache is at /metrics without it"),
    "--kv-cache-metrics-sample": _value("every block counts", "1"),
    "--disable-hybrid-kv-cache-manager": _switch("there is one kind of KV block"),
    "--watermark": _value("preemption makes room where blocks run out"),
    "--use-v2-block-manager": _switch("there is one block manager"),
    "--mamba-cache-dtype": _value(_RECURRENT, "auto"),
    "--mamba-ssm-cache-dtype": _value(_RECURRENT, "auto"),
    "--mamba-block-size": _value(_RECURRENT),
    "--mamba-cache-mode": _value(_RECURRENT, "none"),
    # Scheduling
    "--max-num-partial-prefills": _value(_PARTIAL, "1"),
    "--max-long-partial-prefills": _value(_PARTIAL, "1"),
    "--num-lookahead-slots": _value(_SPECULATIVE, "0"),
    "--num-scheduler-steps": _value("the device is kept busy without it", "1"),
    "--multi-step-stream-outputs": _switch("every step is sent"),
    "--disable-async-output-proc": _switch("scheduling always overlaps with the device's work"),
    # Processes
    "--disable-frontend-multiprocessing": _switch(_ONE_PROCESS),
    "--api-server-count": _value(_ONE_PROCESS, "1"),
    "--distributed-executor-backend": _value("one process drives all devices"),
    "--ray-workers-use-nsight": _switch("one process drives all devices"),
    "--disable-custom-all-reduce": _switch("XLA chooses how devices talk"),
    "--distributed-timeout-seconds": _value(_ONE_HOST),
    "--pipeline-parallel-size": _value("pipeline parallelism is not supported by this version", "1"),
    "--data-parallel-size": _value(_ONE_REPLICA, "1"),
    "--data-parallel-backend": _value(_ONE_REPLICA),
    "--data-parallel-address": _value(_ONE_REPLICA),
    "--data-parallel-rpc-port": _value(_ONE_REPLICA),
    "--data-parallel-rank": _value(_ONE_REPLICA, "0"),
    "--data-parallel-size-local": _value(_ONE_REPLICA, "1"),
    "--data-parallel-start-rank": _value(_ONE_REPLICA, "0"),
    "--data-parallel-hybrid-lb": _switch(_ONE_REPLICA),
    "--data-parallel-external-lb": _switch(_ONE_REPLICA),
    "--decode-context-parallel-size": _value(_CONTEXT_PARALLEL, "1"),
    "--prefill-context-parallel-size": _value(_CONTEXT_PARALLEL, "1"),
    "--enable-expert-parallel": _switch(_EXPERTS),
    "--enable-eplb": _switch(_EXPERTS),
    "--eplb-config": _value(_EXPERTS, "{}"),
    "--expert-placement-strategy": _value(_EXPERTS, "linear"),
    "--all2all-backend": _value(_EXPERTS),
    "--moe-backend": _value(_EXPERTS, "auto"),
    "--enable-return-routed-experts": _switch(_EXPERTS),
    "--enable-dbo": _switch(_ONE_REPLICA),
    "--dbo-decode-token-threshold": _value(_ONE_REPLICA),
    "--dbo-prefill-token-threshold": _value(_ONE_REPLICA),
    "--nnodes": _value(_ONE_HOST, "1"),
    "--node-rank": _value(_ONE_HOST, "0"),
    "--master-addr": _value(_ONE_HOST),
    "--master-port": _value(_ONE_HOST),
    "--headless": _refused(_ONE_HOST, values=0),
    "--enable-scale-out": _switch(_ONE_HOST),
    "--grpc": _refused("there is no gRPC endpoint", values=0),
    "--grpc-port": _value("there is no gRPC endpoint"),
    # Logs and traces
    "--disable-log-stats": _switch("no statistics are logged; they are at /metrics"),
    "--disable-log-requests": _switch("requests are only logged with --enable-log-requests"),
    "--enable-log-outputs": _switch("answers are never logged"),
    "--log-error-stack": _switch("tracebacks of unexpected errors are always logged"),
    "--show-hidden-metrics-for-version": _value("no metric is hidden"),
    "--collect-detailed-traces": _list("a span tells of a request as a whole", "(model|worker|all|,)+"),
    "--log-config-file": _value("logs are set with --uvicorn-log-level and --log-format"),
    "--enable-mfu-metrics": _switch("no use of the device is estimated"),
    "--enable-logging-iteration-details": _switch("steps are counted at /metrics, not logged"),
    "--aggregate-engine-logging": _switch(_ONE_PROCESS),
    "--use-tqdm-on-load": _switch("a bar shows the loading where stderr is a terminal"),
    "--profiler-config": _value("profiling endpoints are not supported by this version"),
    "--enable-server-load-tracking": _switch("/load always counts"),
    # Loading
    "--tokenizer-mode": _value("there is one way to load a tokenizer", "auto", "hf"),
    "--config-format": _value("configs are read in Hugging Face format", "auto", "hf"),
    "--hf-config-path": _refused("the config is read from the model's directory"),
    "--model-loader-extra-config": _value("the loader has no such settings", "{}"),
    "--model-impl": _value("every model is this project's own", "auto"),
    "--convert": _value("any model generates; --runner pooling has it serve embeddings too", "auto", "none"),
    "--code-revision": _value("code from a model repository is never run"),
    "--ignore-patterns": _value(_SAFETENSORS),
    "--safetensors-load-strategy": _value(_SAFETENSORS, "lazy"),
    "--pt-load-map-location": _value(_SAFETENSORS, "cpu"),
    "--max-parallel-loading-workers": _value(_SAFETENSORS),
    "--weight-transfer-config": _value("weights do not change while the server runs"),
    "--additional-config": _value("there is nothing that would read it", "{}"),
    "--rope-scaling": _refused("rotary embeddings are changed with --hf-overrides", "{}"),
    "--rope-theta": _refused("rotary embeddings are changed with --hf-overrides"),
    "--pooler-config": _refused("the pooling is the one in the model's directory", "{}"),
    "--quantization": _refused("quantization is not supported by this version", "none", "None"),
    "--task": _refused("it is --runner that says what a model is for", "auto", "generate"),
    "--logits-processors": _refused(_PLUGIN, values=-1),
    "--logits-processor-pattern": _value("requests bring no logits processors"),
    "--scheduler-cls": _refused(_PLUGIN),
    "--worker-cls": _refused(_PLUGIN, "auto"),
    "--worker-extension-cls": _refused(_PLUGIN, ""),
    "--io-processor-plugin": _refused(_PLUGIN),
    # Features that are not there, or need no setting
    "--enable-lora": _switch(_LORA),
    # NAME=PATH, JSON, or nothing
    "--lora-modules": _list(_LORA + ": the base model is served, other names get a 404", r"|.*=.*|[\[{].*"),
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
    "--guided-decoding-backend": _value(_STRUCTURED),
    "--tool-parser-plugin": _refused(_PLUGIN),
    "--tool-strict-level": _value(
        "calls that a request requires always satisfy their schemas, others need not"
    ),
    "--reasoning-parser-plugin": _refused(_PLUGIN),
    "--reasoning-config": _value("the length of a reasoning is limited by max_tokens only", "{}"),
    "--enable-reasoning": _switch("--reasoning-parser finds the reasoning"),
    "--reasoning-effort-map": _refused("reasoning_effort reaches the chat template as it is sent", "{}"),
    "--stream-interval": _value("every step is sent", "1"),
    "--logprobs-mode": _refused("logprobs are those of the model's own distribution", "raw_logprobs"),
    "--enable-sleep-mode": _switch(_SLEEP),
    "--enable-prompt-embeds": _switch("prompt embeddings are refused"),
    "--tokens-only": _switch("text is served too; --skip-tokenizer-init takes and gives token ids only"),
    "--kv-transfer-config": _value("KV is never moved between servers"),
    "--kv-events-config": _value("no KV events are published"),
    "--limit-mm-per-prompt": _value(_MULTIMODAL),
    "--language-model-only": _switch(_MULTIMODAL),
    "--mm-processor-kwargs": _value(_MULTIMODAL),
    "--mm-processor-cache-gb": _value(_MULTIMODAL, "0"),
    "--mm-processor-cache-type": _value(_MULTIMODAL),
    "--disable-mm-preprocessor-cache": _switch(_MULTIMODAL),
    "--disable-chunked-mm-input": _switch(_MULTIMODAL),
    "--mm-encoder-tp-mode": _value(_MULTIMODAL),
    "--mm-encoder-attn-backend": _value(_MULTIMODAL),
    "--enable-mm-embeds": _switch(_MULTIMODAL),
    "--skip-mm-profiling": _switch(_MULTIMODAL),
    "--interleave-mm-strings": _switch(_MULTIMODAL),
    "--media-io-kwargs": _value(_MULTIMODAL, "{}"),
    "--video-pruning-rate": _value(_MULTIMODAL, "0"),
    "--allowed-local-media-path": _value(_MULTIMODAL),
    "--allowed-media-domains": _list(_MULTIMODAL, r"[\w-]+(\.[\w-]+)+|\[.*"),
    "--fingerprint-mode": _value("system_fingerprint is the server's version", "full"),
    "--enable-ssl-refresh": _switch("certificates are read once"),
    "--enable-offline-docs": _switch("/docs never loads anything from the network"),
}
"""vLLM's flags without a setting of their own here."""
