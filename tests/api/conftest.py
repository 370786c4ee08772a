"""A real engine on a tiny random model, in this process and behind a real server in another one."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.server_config import ServerConfig
from api.serving.context import ServerContext, make_context
from vllm_jax.config import EngineConfig
from vllm_jax.engine.async_engine import AsyncEngine

ENGINE_SETTINGS: dict[str, Any] = {
    "max_num_seqs": 4,
    "max_num_batched_tokens": 32,
    "num_gpu_blocks_override": 96,
}
REPO = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def engine_config(mpt_checkpoint: Path) -> EngineConfig:
    return EngineConfig.from_flat(model=str(mpt_checkpoint), **ENGINE_SETTINGS)


@pytest.fixture(scope="session")
def engine(engine_config: EngineConfig) -> AsyncEngine:
    return AsyncEngine.start(engine_config)


MakeClient = Callable[..., TestClient]


@pytest.fixture(scope="session")
def make_client(engine: AsyncEngine, engine_config: EngineConfig) -> Iterator[MakeClient]:
    """Makes clients of the application in this process; ``group={field: value}`` changes server settings."""
    contexts: list[ServerContext] = []

    def make(**groups: dict[str, Any]) -> TestClient:
        config = ServerConfig()
        changed = {
            name: dataclasses.replace(getattr(config, name), **values) for name, values in groups.items()
        }
        context = make_context(engine, engine_config, dataclasses.replace(config, **changed))
        contexts.append(context)
        return TestClient(create_app(context), raise_server_exceptions=False)

    yield make
    for context in contexts:
        context.prompts.close()


@pytest.fixture(scope="session")
def client(make_client: MakeClient) -> TestClient:
    return make_client()


@dataclass
class Server:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    port: int
    model: str
    log: Path

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def metric(self, name: str) -> float:
        """The value of a series without further labels than model_name and engine."""
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


StartServer = Callable[..., Server]


@pytest.fixture(scope="session")
def start_server(
    mpt_checkpoint: Path, engine: AsyncEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartServer]:
    """Starts servers of the tiny model; ``engine`` has left its compiled programs in the cache."""
    started: list[Server] = []

    def start(*flags: str, env: dict[str, str] | None = None) -> Server:
        port = free_port()
        log = tmp_path_factory.mktemp("server") / "log.txt"
        settings = [f"--{name.replace('_', '-')}={value}" for name, value in ENGINE_SETTINGS.items()]
        command = [
            sys.executable,
            "-m",
            "api.cli",
            "serve",
            str(mpt_checkpoint),
            f"--port={port}",
            *settings,
        ]
        with log.open("w") as output:
            process = subprocess.Popen(
                [*command, *flags],
                stdout=output,
                stderr=output,
                text=True,
                cwd=REPO,
                env={**os.environ, **(env or {})},
            )
        server = Server(process, port, str(mpt_checkpoint), log)
        started.append(server)
        deadline = time.monotonic() + 240
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                if httpx.get(f"{server.url}/health").status_code == 200:
                    return server
            except httpx.TransportError:
                time.sleep(0.1)

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="session")
def server(start_server: StartServer) -> Server:
    """The server that tests share; none of them may stop it."""
    return start_server("--served-model-name", "tiny/model", "tiny")
