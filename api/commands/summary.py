"""What the operator reads when the server is ready."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from api.server_config import ServerConfig
from api.serving.model_names import ServedModels
from vllm_jax import __version__
from vllm_jax.engine.info import ModelInfo


def print_summary(
    console: Console, info: ModelInfo, models: ServedModels, config: ServerConfig, url: str, command: str
) -> None:
    """Model, memory, capacity, names, address, and a command to try."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    console.print(f"\n[bold]vllm-jax {__version__}[/bold] is ready\n", highlight=False)
    for name, value in _rows(info, models, config, url):
        table.add_row(name, value)
    console.print(table)
    console.print("\nTry it:\n", highlight=False)
    console.print(command, highlight=False, soft_wrap=True, markup=False)
    console.print()


def try_command(model: str, config: ServerConfig, url: str, *, chats: bool, key: str | None) -> str:
    """A curl line that works as it is; ``key`` is the shell's spelling of the API key.

    ``chats``: there is a chat template.
    """
    path = "/v1/chat/completions" if chats else "/v1/completions"
    body: dict[str, object] = {"model": model}
    if chats:
        body["messages"] = [{"role": "user", "content": "I love programming."}]
    else:
        body["prompt"] = [1, 2, 3]
    body["max_tokens"] = 16
    where = f"--unix-socket {config.http.uds} http://localhost" if config.http.uds else url
    sent_key = f' -H "Authorization: Bearer {key}"' if key else ""
    return f"  curl {where}{path} -H 'Content-Type: application/json'{sent_key} -d '{json.dumps(body)}'"


def _rows(info: ModelInfo, models: ServedModels, config: ServerConfig, url: str) -> Sequence[tuple[str, str]]:
    names = ", ".join(models.names)
    if models.aliases:
        names += f" (and, as an alias for it: {', '.join(models.aliases)})"
    openness = "anyone who reaches it may use it" if not config.http.api_key else "an API key is needed"
    return [
        (
            "Model",
            f"{info.model} ({info.model_type}, {_count(info.num_parameters)} parameters, {info.dtype})",
        ),
        ("Device", f"{info.device}, attention: {info.attention}"),
        *([("CPU kernels", info.cpu_kernels)] if info.cpu_kernels else []),
        (
            "Memory",
            f"{_bytes(info.weight_bytes)} weights, {_bytes(info.kv_cache_bytes)} KV cache",
        ),
        (
            "KV cache",
            f"{info.num_blocks} blocks of {info.block_size} = {info.kv_cache_tokens:,} tokens"
            + (", prefix caching" if info.enable_prefix_caching else ""),
        ),
        (
            "Concurrency",
            f"{info.max_concurrency:.1f} requests of {info.max_model_len:,} tokens; "
            f"at most {info.max_num_seqs} sequences and {info.max_num_batched_tokens} tokens a step",
        ),
        (
            "Start",
            f"loaded in {info.load_seconds:.1f} s, "
            f"{info.num_programs} programs ready in {info.warm_up_seconds:.1f} s "
            f"({info.num_compiled or 'none'} compiled)",
        ),
        ("Names", names),
        ("URL", f"{url}/v1 ({openness})"),
    ]


def _bytes(number: int) -> str:
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"


def _count(number: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return str(number)
