"""Other spellings of flags and of their values, most of them vLLM's."""

from __future__ import annotations

ALIASES: dict[str, str] = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
    "-dpn": "--data-parallel-rank",
    "-dpr": "--data-parallel-start-rank",
    "-dpl": "--data-parallel-size-local",
    "-dpa": "--data-parallel-address",
    "-dpp": "--data-parallel-rpc-port",
    "-dpb": "--data-parallel-backend",
    "-dph": "--data-parallel-hybrid-lb",
    "-dpe": "--data-parallel-external-lb",
    "-dcp": "--decode-context-parallel-size",
    "-ep": "--enable-expert-parallel",
    "-q": "--quantization",
    "-O": "--compilation-config",
    "-cc": "--compilation-config",
    "-sc": "--speculative-config",
    "--device-memory-utilization": "--gpu-memory-utilization",
    "--hbm-utilization": "--gpu-memory-utilization",
    "--disable-access-log": "--disable-uvicorn-access-log",
}
"""Other spellings."""

VALUE_ALIASES: dict[tuple[str, str], str] = {
    ("--max-model-len", "-1"): "auto",
    ("--dtype", "float"): "float32",
    ("--dtype", "half"): "float16",
    ("--load-format", "hf"): "auto",
    ("--seed", "None"): "0",
    ("--kv-cache-dtype", "fp8_e4m3"): "fp8",
    ("--tool-call-parser", "qwen"): "hermes",
    ("--tool-call-parser", "qwen3_xml"): "qwen3_coder",
    ("--tool-call-parser", "llama4_json"): "llama3_json",
    ("--tool-call-parser", "llama4_pythonic"): "pythonic",
    ("--tool-call-parser", "deepseek_v3"): "deepseek",
    ("--tool-call-parser", "deepseek_v31"): "deepseek",
    ("--tool-call-parser", "gpt_oss"): "openai",
    ("--reasoning-parser", ""): "none",
    ("--reasoning-parser", "deepseek_v3"): "deepseek_r1",
    ("--reasoning-parser", "deepseek-r1"): "deepseek_r1",
    ("--reasoning-parser", "openai_gptoss"): "gpt_oss",
    ("--reasoning-parser", "gpt-oss"): "gpt_oss",
}
"""Other spellings of values."""
