"""What clients, supervisors and the process see when the engine fails or shuts down."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from server_process import REPO, StartServer, break_after_steps
from sse_reader import read_events

from api.app import create_app
from api.server_config import ServerConfig
from api.serving.context import make_context
from vllm_jax.config import EngineConfig
from vllm_jax.engine.async_engine import AsyncEngine

BODY = {"prompt": "One two", "ignore_eos": True, "max_tokens": 200}


@pytest.fixture
def own_engine(engine_config: EngineConfig, engine: AsyncEngine) -> AsyncEngine:
    """An engine that a test may break; its programs come from the cache that ``engine`` has filled."""
    return AsyncEngine.start(engine_config)


def test_engine_death_fails_requests_and_health(own_engine: AsyncEngine, engine_config: EngineConfig) -> None:
    context = make_context(own_engine, engine_config, ServerConfig())
    client = TestClient(create_app(context), raise_server_exceptions=False)
    assert client.get("/health").status_code == 200
    break_after_steps(own_engine, 10)
    response = client.post("/v1/completions", json={**BODY, "stream": True})
    assert response.status_code == 200
    *chunks, failure = read_events(response.text)
    assert chunks and failure["error"]["code"] == 500 and "device lost" not in response.text
    for path, body in (
        ("/v1/completions", BODY),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ):
        for stream in (False, True):
            response = client.post(path, json={**body, "stream": stream})
            assert response.status_code == 500
            assert response.json()["error"]["type"] == "InternalServerError"
    health = client.get("/health")
    assert health.status_code == 503 and health.headers["retry-after"]


async def test_a_server_that_drains_refuses_with_retry_after(
    own_engine: AsyncEngine, engine_config: EngineConfig
) -> None:
    context = make_context(own_engine, engine_config, ServerConfig())
    client = TestClient(create_app(context))
    context.draining = True
    await own_engine.shutdown(0)
    for response in (client.post("/v1/completions", json=BODY), client.get("/health")):
        assert response.status_code == 503 and response.headers["retry-after"] == "5"
        assert "shutting down" in response.json()["error"]["message"]


DYING_SERVER = """
import sys
from server_process import break_after_steps
from api.cli import main
from vllm_jax.engine.async_engine import AsyncEngine

start = AsyncEngine.start
def start_and_break(*args, **settings):
    engine = start(*args, **settings)
    break_after_steps(engine, 5)
    return engine
AsyncEngine.start = start_and_break
sys.exit(main(sys.argv[1:]))
"""


def test_the_process_ends_with_an_error(start_server: StartServer) -> None:
    path = os.pathsep.join([str(REPO), str(Path(__file__).parent)])
    command = [sys.executable, "-c", DYING_SERVER, "serve"]
    server = start_server(command=command, env={"PYTHONPATH": path})
    with server.client() as client:
        assert client.post("/v1/completions", json=BODY).status_code == 500
        assert client.get("/health").status_code == 503
    assert server.process.wait(30) == 1
    assert "the engine has failed" in server.log.read_text()
