"""The ``vllm-jax`` command: a failure is one readable line and an exit code."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import REPO

from api.cli import main
from api.commands.serve import _with_keys
from api.commands.sockets import listen, reserve, url
from api.commands.summary import try_command
from api.server_config import HttpConfig, ServerConfig
from vllm_jax import __version__
from vllm_jax.errors import ConfigError
from vllm_jax.tokenizer.chat_template import check_chat_template


@pytest.fixture(autouse=True)
def _loggers_are_restored() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("api", "vllm_jax", "uvicorn", "uvicorn.access")]
    before = [(log.handlers, log.level, log.propagate, log.filters) for log in loggers]
    yield
    for log, state in zip(loggers, before, strict=True):
        log.handlers, log.level, log.propagate, log.filters = state


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("vllm-jax: error: ")]
    assert len(lines) == 1 and "Traceback" not in captured.err + captured.out, captured.err
    return lines[0]


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vllm-jax {__version__}\n"
    for argv in (["--help"], []):
        assert main(argv) == 0
        assert "vllm-jax serve" in capsys.readouterr().out
    assert main(["serve", "--help"]) == 0
    assert "--max-model-len" in capsys.readouterr().out


def test_help_does_not_bring_jax() -> None:
    program = (
        "import sys; sys.argv = ['vllm-jax', 'serve', '--help']\nfrom api.cli import main\ncode = main()\n"
        "assert not {'jax', 'transformers', 'fastapi'} & set(sys.modules), 'too much for a help text'\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["dance"], 2, "dance"),
        (["serve", "--no-such-flag"], 2, "--no-such-flag"),
        (["serve", "--dtype", "float8"], 2, "float8"),
        (["serve", "/no/such/model", "--port", "0"], 1, "/no/such/model"),
        (["serve", "no-such-org/no-such-model", "--port", "0"], 1, "no-such-org/no-such-model"),
        (["serve", "--host", "no-such-host.invalid"], 1, "no-such-host.invalid"),
        (["serve", "--ssl-keyfile", "/no/k", "--ssl-certfile", "/no/c"], 1, "/no/c"),
    ],
)
def test_wrong_starts(argv: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == code
    assert says in error_line(capsys)


def test_broken_checkpoint(tmp_path: Path, mpt_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((mpt_checkpoint / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    assert main(["serve", str(tmp_path), "--port", "0"]) == 1
    assert str(tmp_path) in error_line(capsys)
    (tmp_path / "config.json").write_text("{")
    assert main(["serve", str(tmp_path), "--port", "0"]) == 1
    assert "config.json" in error_line(capsys)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% if %}", "chat template is not valid, line 1"),
        ("/no/such/file.jinja", "/no/such/file.jinja"),
        ("no-such-name", "no-such-name"),
        ("BROKEN", "chat template is not valid, line 2"),
    ],
)
def test_bad_chat_templates_are_said_before_the_model_is_loaded(
    tmp_path: Path, mpt_checkpoint: Path, capsys: pytest.CaptureFixture[str], template: str, says: str
) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((mpt_checkpoint / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"would be said if it were read")
    (tmp_path / "broken.jinja").write_text("{{ messages }}\n{% if %}")
    template = template.replace("BROKEN", str(tmp_path / "broken.jinja"))
    assert main(["serve", str(tmp_path), "--port", "0", "--chat-template", template]) == 1
    assert says in error_line(capsys)


def test_a_chat_template_may_be_one_of_the_tokenizers_by_name(tmp_path: Path) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "brief.jinja").write_text("{{ messages }}")
    check_chat_template("brief", tmp_path)
    check_chat_template("any-name", None)  # a hub id: its files are not here yet
    with pytest.raises(ConfigError, match="neither a file"):
        check_chat_template("other", tmp_path)


def test_the_command_to_try_names_the_key_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for names, flags, expected in (
        ((), (), None),
        (("VLLM_API_KEY",), (), "$VLLM_API_KEY"),
        (("VLLM_API_KEY", "VLLM_JAX_API_KEY"), (), "$VLLM_JAX_API_KEY"),
        (("VLLM_API_KEY", "VLLM_JAX_API_KEY"), ("mine",), "YOUR_API_KEY"),
    ):
        for name in ("VLLM_API_KEY", "VLLM_JAX_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        for name in names:
            monkeypatch.setenv(name, f"secret of {name}")
        config, key = _with_keys(ServerConfig(http=HttpConfig(api_key=flags)))
        assert key == expected
        command = try_command("m", config, "http://localhost:1", chats=True, key=key)
        assert "secret" not in command and "mine" not in command
        assert (f'"Authorization: Bearer {expected}"' in command) is (expected is not None)


def test_variables_of_vllm_without_effect_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "k")
    monkeypatch.setenv("VLLM_JAX_API_KEY", "k")
    assert main(["serve", "/no/such/model", "--port", "0"]) == 1
    assert "VLLM_" not in capsys.readouterr().err
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setenv("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "5")
    assert main(["serve", "/no/such/model", "--port", "0"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "VLLM_" in line]
    assert len(lines) == 1 and "VLLM_HTTP_TIMEOUT_KEEP_ALIVE, VLLM_LOGGING_LEVEL: no effect" in lines[0]
    assert "API_KEY" not in lines[0]


def test_help_into_a_closed_pipe_is_no_failure() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m api.cli serve --help | head -1"],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "usage" in done.stdout and done.stderr == ""


def test_port_in_use_is_said_before_the_model_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "/no/such/model", "--port", str(port)]) == 1
    assert f"port {port}" in error_line(capsys)


def test_the_process_says_one_line_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "api.cli", "serve", "--port", "x"],
        cwd=REPO,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("vllm-jax: error: ") and done.stderr.count("\n") == 1


def test_localhost_is_every_address_of_it() -> None:
    sockets = reserve(HttpConfig(port=0))
    try:
        names = {sock.getsockname()[0] for sock in sockets}
        assert "127.0.0.1" in names and names <= {"127.0.0.1", "::1"}
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        with pytest.raises(ConnectionRefusedError):  # reserved, but not open
            socket.create_connection(sockets[0].getsockname()[:2], timeout=5)
        listen(sockets)
        socket.create_connection(sockets[0].getsockname()[:2], timeout=5).close()
        with pytest.raises(ConfigError, match="in use"):
            reserve(HttpConfig(port=sockets[0].getsockname()[1]))
    finally:
        for sock in sockets:
            sock.close()


def test_unix_sockets_are_reclaimed_but_not_stolen(tmp_path: Path) -> None:
    path = str(tmp_path / "server.sock")
    for sock in reserve(HttpConfig(uds=path)):
        sock.close()  # leaves the file behind
    [sock] = reserve(HttpConfig(uds=path))
    with sock:
        listen([sock])
        with pytest.raises(ConfigError, match="in use"):
            reserve(HttpConfig(uds=path))
    with pytest.raises(ConfigError):
        reserve(HttpConfig(uds="/no/such/folder/x.sock"))


def test_url() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        assert url(HttpConfig(), [sock]) == f"http://localhost:{port}"
        assert url(HttpConfig(host="0.0.0.0"), [sock]) == f"http://localhost:{port}"
        assert url(HttpConfig(host="::1", root_path="/llm"), [sock]) == f"http://[::1]:{port}/llm"
        assert url(HttpConfig(ssl_keyfile="k", ssl_certfile="c"), [sock]) == f"https://localhost:{port}"
