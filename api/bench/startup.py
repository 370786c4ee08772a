"""``vllm-jax bench startup``: from the start of the process to ready and to the first token.

Every start is a process of its own, so that nothing is warm but what a start leaves on disk.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from vllm_jax.errors import ConfigError

_POLL_S = 0.02


@dataclass(frozen=True)
class StartupConfig:
    """How it is measured. --port and --compilation-cache-dir are chosen by the benchmark."""

    num_iters_cold: int = 1
    """Starts without compiled programs on disk."""
    num_iters_warm: int = 3
    """Starts with the programs that a start before has kept."""
    start_timeout: float = 600.0
    """Seconds after which a start has failed."""
    output_json: str | None = None
    """Write the figures into this file."""


@dataclass(frozen=True)
class BenchStartup:
    """The flags of ``vllm-jax bench startup``, beside those of ``serve``."""

    startup: StartupConfig = field(default_factory=StartupConfig)

    def validate(self) -> None:
        """Raises ConfigError; the text names the flag."""
        if self.startup.num_iters_cold < 0 or self.startup.num_iters_warm < 0:
            raise ConfigError("--num-iters-cold and --num-iters-warm must not be negative")


@dataclass(frozen=True)
class Start:
    """One start; seconds since the process was made, and the most memory it ever had."""

    kind: str
    ready_s: float
    first_token_s: float
    peak_rss_bytes: int


def bench_startup(config: BenchStartup, serve_words: Sequence[str], console: Console | None = None) -> int:
    """Starts, times, prints and writes; the exit code.

    Raises:
        ConfigError: a setting is wrong, or a start failed; the text has the server's last words.
    """
    settings = config.startup
    console = console or Console()
    starts: list[Start] = []
    with tempfile.TemporaryDirectory(prefix="vllm-jax-startup-") as scratch:
        for i in range(settings.num_iters_cold):
            starts.append(
                measure_start("cold", serve_words, Path(scratch, f"cold-{i}"), settings.start_timeout)
            )
            console.print(_line(starts[-1]), highlight=False)
        kept = Path(scratch, "cold-0")
        if settings.num_iters_warm and not settings.num_iters_cold:
            measure_start("unmeasured", serve_words, kept, settings.start_timeout)
        for _ in range(settings.num_iters_warm):
            starts.append(measure_start("warm", serve_words, kept, settings.start_timeout))
            console.print(_line(starts[-1]), highlight=False)
    table = Table("start", "ready (s)", "first token (s)", "peak memory (MiB)", title="median", box=None)
    for kind in ("cold", "warm"):
        chosen = [start for start in starts if start.kind == kind]
        if chosen:
            table.add_row(
                kind,
                f"{statistics.median(start.ready_s for start in chosen):.2f}",
                f"{statistics.median(start.first_token_s for start in chosen):.2f}",
                f"{statistics.median(start.peak_rss_bytes for start in chosen) / 2**20:.0f}",
            )
    console.print(table)
    if settings.output_json is not None:
        content = {"serve": list(serve_words), "starts": [asdict(start) for start in starts]}
        try:
            Path(settings.output_json).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--output-json {settings.output_json}: {error.strerror}") from None
    return 0


def _line(start: Start) -> str:
    return f"{start.kind}: ready after {start.ready_s:.2f} s, first token after {start.first_token_s:.2f} s"


def measure_start(kind: str, serve_words: Sequence[str], cache: Path, timeout_s: float) -> Start:
    """One start of ``vllm-jax serve`` with ``serve_words``, until it has answered once; ends it then.

    Compiled programs are kept in the folder ``cache``, and what the server says in ``log.txt`` there.

    Raises:
        ConfigError: the start failed; the text has the server's last words.
    """
    cache.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    chosen = ["--host=127.0.0.1", f"--port={port}", f"--compilation-cache-dir={cache}"]
    log_path = cache / "log.txt"
    with log_path.open("w") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "api.cli", "serve", *serve_words, *chosen],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    ended = False
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=timeout_s) as client:
            while True:
                if process.poll() is not None or time.perf_counter() - began > timeout_s:
                    ended = process.returncode is not None
                    raise ConfigError("the server did not start: " + _last_words(log_path))
                try:
                    if client.get("/health").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(_POLL_S)
            ready = time.perf_counter() - began
            model = client.get("/v1/models").json()["data"][0]["id"]
            body = {
                "model": model,
                "prompt": [1, 2, 3],
                "max_tokens": 1,
                "temperature": 0,
                "ignore_eos": True,
            }
            answer = client.post("/v1/completions", json=body)
            first = time.perf_counter() - began
            if answer.status_code != 200:
                raise ConfigError(f"the server refused the first request: {answer.text[:300]}")
    finally:
        if not ended:
            process.send_signal(signal.SIGTERM)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return Start(kind, ready, first, usage.ru_maxrss * unit)


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("vllm-jax: error: ") if lines else "it said nothing"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
