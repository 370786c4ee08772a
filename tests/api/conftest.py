"""A real engine on a tiny random model, in this process and behind a real server in another one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from scripted_server import scripted_server
from server_process import ENGINE_SETTINGS, Server, StartServer, launch

from api.app import create_app
from api.server_config import ServerConfig
from api.serving.context import ServerContext, make_context
from vllm_jax.config import EngineConfig
from vllm_jax.engine.async_engine import AsyncEngine


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
        app = create_app(context)
        return TestClient(app, raise_server_exceptions=False, root_path=context.config.http.root_path)

    yield make
    for context in contexts:
        context.prompts.close()


@pytest.fixture(scope="session")
def client(make_client: MakeClient) -> TestClient:
    return make_client()


@pytest.fixture(scope="session")
def start_server(
    mpt_checkpoint: Path, engine: AsyncEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartServer]:
    """Starts servers of the tiny model; ``engine`` has left its compiled programs in the cache."""
    started: list[Server] = []

    def start(*flags: str, **options: Any) -> Server:
        log = tmp_path_factory.mktemp("server") / "log.txt"
        server = launch(str(mpt_checkpoint), flags, log, **options)
        started.append(server)
        server.wait_until_ready()
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="session")
def server(start_server: StartServer) -> Server:
    """The server that tests share; none of them may stop it."""
    return start_server("--served-model-name", "tiny/model", "tiny")


@pytest.fixture(scope="module")
def scripted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a model that says the test module's ``SCRIPTS``."""
    with scripted_server(tmp_path_factory.mktemp("scripted"), request.module.SCRIPTS) as server:
        yield server


@pytest.fixture(scope="module")
def http(scripted: Server) -> Iterator[httpx.Client]:
    with scripted.client() as client:
        yield client
