"""``--middleware``: classes and functions of the operator's own, around everything."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from api.cli import main
from api.commands.flags import parse_serve
from api.middleware import imported
from vllm_jax.errors import ConfigError

MODULE = """
from starlette.responses import PlainTextResponse

class Marked:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def marked(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-marked", b"yes")]
            await send(message)
        await self.app(scope, receive, marked)

async def closed(request, call_next):
    if request.url.path == "/version":
        return PlainTextResponse("closed", 418)
    return await call_next(request)

number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "wrapping.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("raise RuntimeError('not today')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("wrapping", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "wrapping"


def test_classes_and_functions_are_put_around_the_application(make_client: Any, module: str) -> None:
    plain = make_client()
    assert "x-marked" not in plain.get("/version").headers
    client = make_client(http={"middleware": (f"{module}.closed", f"{module}.Marked"), "api_key": ("k",)})
    refused = client.get("/version")
    assert refused.status_code == 418 and refused.headers["x-marked"] == "yes"
    assert client.get("/health").status_code == 200
    without_key = client.get("/v1/models")
    assert without_key.status_code == 401 and without_key.headers["x-marked"] == "yes"
    body = {"prompt": "a", "max_tokens": 3, "stream": True}
    streamed = client.post("/v1/completions", json=body, headers={"Authorization": "Bearer k"})
    assert streamed.headers["x-marked"] == "yes" and streamed.text.endswith("data: [DONE]\n\n")


def test_a_path_a_flag() -> None:
    arguments = parse_serve(["--middleware", "a.b", "org/model", "--middleware=c.d"])
    assert arguments.server.http.middleware == ("a.b", "c.d")
    assert arguments.engine.model.model == "org/model"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("nothing", "import path"),
        ("no_such_module_here.Thing", "no_such_module_here"),
        ("wrapping.missing", "missing"),
        ("wrapping.number", "neither a class nor an async function"),
        ("broken.Thing", "not today"),
    ],
)
def test_what_cannot_be_imported_ends_the_start(module: str, path: str, says: str) -> None:
    with pytest.raises(ConfigError, match="--middleware") as caught:
        imported([path])
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_the_start_ends_before_the_model_is_read(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "/no/such/model", "--port", "0", "--middleware", "broken.Thing"]) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vllm-jax: error")]
    assert len(said) == 1 and "not today" in said[0]
