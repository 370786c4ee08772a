"""Real servers in processes of their own, for tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from vllm_jax.engine.async_engine import AsyncEngine

REPO = Path(__file__).parents[2]
ENGINE_SETTINGS: dict[str, Any] = {
    "max_num_seqs": 4,
    "max_num_batched_tokens": 32,
    "num_gpu_blocks_override": 96,
}
"""Small, so that there are few programs to compile."""
ENGINE_FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in ENGINE_SETTINGS.items()]
COMMAND = [sys.executable, "-m", "api.cli", "serve"]


@dataclass
class Server:
    """A server in a process of its own. ``uds`` is its unix socket, where it has no port."""

    process: subprocess.Popen[str]
    port: int
    model: str
    log: Path
    uds: str | None = None

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=self.uds) if self.uds else None
        return httpx.Client(base_url=self.url, transport=transport, timeout=60)

    def wait_until_ready(self, timeout_s: float = 240) -> None:
        """Waits until /health answers; fails with the server's log."""
        deadline = time.monotonic() + timeout_s
        with self.client() as client:
            while True:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                try:
                    client.get("/health")
                    return
                except httpx.TransportError:
                    time.sleep(0.1)

    def metric(self, name: str) -> float:
        """The value of a series without further labels than model_name and engine."""
        with self.client() as client:
            for line in client.get("/metrics").text.splitlines():
                if line.startswith(name + "{"):
                    return float(line.rsplit(" ", 1)[1])
        raise KeyError(name)

    def wait_until_idle(self, timeout_s: float = 20) -> None:
        """Waits until nothing runs and no KV block is held."""
        deadline = time.monotonic() + timeout_s
        names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
        while any(values := [self.metric(name) for name in names]):
            assert time.monotonic() < deadline, dict(zip(names, values, strict=True))
            time.sleep(0.05)

    def stop(self, *, expect: int = 0) -> None:
        """Sends SIGTERM and checks the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == expect, self.log.read_text()


StartServer = Callable[..., Server]
"""``start(*flags, env=None, uds=None, command=COMMAND)`` gives a server that is ready."""


def launch(
    model: str,
    flags: Sequence[str],
    log: Path,
    *,
    env: dict[str, str] | None = None,
    uds: str | None = None,
    command: Sequence[str] = COMMAND,
) -> Server:
    """Starts a server; it is not ready yet."""
    port = free_port()
    address = [f"--uds={uds}"] if uds else [f"--port={port}"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, model, *address, *ENGINE_FLAGS, *flags],
            stdout=output,
            stderr=output,
            text=True,
            cwd=REPO,
            env={**os.environ, **(env or {})},
        )
    return Server(process, port, model, log, uds)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def break_after_steps(engine: AsyncEngine, steps: int) -> None:
    """Makes the engine's step fail after some more steps, as a lost device would."""
    inner, left = engine._engine, [steps]
    step = inner.step

    def failing() -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("device lost")
        return step()

    inner.step = failing  # type: ignore[method-assign]
